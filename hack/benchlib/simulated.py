"""Nodes that are dicts, with real agents, in a process of their own: KUBECONFIG COUNT DIRECTORY.

On standard input ``writes`` asks how often the agents operated on their nodes, ``resync`` has every agent start anew. The
end of the input ends it.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from pathlib import Path

from zos.api.gridnode import GridNode
from zos.kube.client import Client
from zos.simulation import grid


async def main(kubeconfig: str, count: int, directory: Path) -> None:
    # Each agent has some ten connections and loops of its own.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with grid(kubeconfig, directory) as simulated:
        for number in range(count):
            await simulated.node(f"node-{number}", ipv4=f"198.51.100.{number + 1}")
        for name in simulated.nodes:
            while not await _ready(simulated.client, name):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
        print("ready", flush=True)
        while line := (await reader.readline()).decode().strip():
            if line == "resync":
                for name in simulated.nodes:
                    await simulated.stop_agent(name)
                    simulated.start_agent(name)
            print(sum(node.writes for node in simulated.nodes.values()), flush=True)


async def _ready(client: Client, name: str) -> bool:
    raw = await client.get(GridNode, "", name)
    conditions = (raw or {}).get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
