"""The agent's process: settings in, everything composed, run until SIGTERM. Read this first."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence

from zos import __version__
from zos.agent import memory
from zos.agent.agent import Agent
from zos.agent.composition import equip
from zos.agent.diskmetrics import DiskMetrics
from zos.agent.guestmetrics import GuestMetrics
from zos.agent.imagemetrics import ImageMetrics
from zos.agent.lock import alone
from zos.agent.metrics import Metrics
from zos.agent.servicemetrics import ServiceMetrics
from zos.agent.settings import Settings, parse
from zos.agent.usage import Usage
from zos.api import names
from zos.drivers.keyring import Keyring
from zos.drivers.means import raise_descriptors, raise_inotify
from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS
from zos.kube.client import Access, Client
from zos.kube.log import configure
from zos.kube.nodetoken import NodeAccess
from zos.kube.serving import serve

log = logging.getLogger("zos.agent")

#: Connections to the API server beside those on which it listens: each takes 256 KiB (asyncio.sslproto).
_CONNECTIONS = 4


async def run(settings: Settings, kinds: Kinds = KINDS) -> None:
    """Until cancelled. Raises OSError when the node or the configuration can't be used, or another agent has the node."""
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with alone(settings.state, settings.node):
        await _run(settings, kinds)


async def _run(settings: Settings, kinds: Kinds) -> None:
    settings.run.mkdir(parents=True, exist_ok=True)
    descriptors = raise_descriptors()
    try:
        raise_inotify()
    except OSError as error:
        log.warning(
            "%s; where WireGuard runs in userspace, networks beyond some hundred won't start: set the kernel setting "
            "fs.inotify.max_user_instances to 8192 on the node",
            error,
        )
    metrics = Metrics()
    access = await _access(settings)
    client = Client(
        access,
        wrote=lambda kind, verb, code: metrics.api_writes.labels(kind, verb, str(code)).inc(),
        connections=_CONNECTIONS,
    )
    keyring = Keyring(settings.state / "keys")
    equipment = await equip(settings, keyring)
    usage = Usage(equipment.guest_use, equipment.guests, time.monotonic)
    agent = Agent(
        settings,
        client,
        equipment.drivers,
        kinds=kinds,
        keyring=keyring,
        features=equipment.features,
        usage=usage.text,
        metrics=metrics,
        rested=memory.give_back,
    )
    log.info("agent %s starts, with at most %d descriptors", __version__, descriptors)
    server, looks = None, asyncio.create_task(usage.run(), name="usage")
    try:
        if settings.metrics is not None:
            services = ServiceMetrics(equipment.endpoints, agent.owner_of)
            disks = DiskMetrics(equipment.usage)
            guests = GuestMetrics(equipment.guest_use, equipment.guests, agent.owner_of)
            metrics.registry.register(services)
            metrics.registry.register(guests)
            metrics.registry.register(disks)
            metrics.registry.register(ImageMetrics(equipment.images))

            async def scrape() -> None:
                await asyncio.gather(services.scrape(), disks.scrape(), guests.scrape())

            lacking = access.lacking if isinstance(access, NodeAccess) else lambda: None
            server, _ = await serve(settings.metrics, agent.unhealthy, metrics.registry, scrape, lacking)
        await agent.run()
    finally:
        looks.cancel()
        if server is not None:
            await server.cleanup()
        await client.close()
        log.info("agent stops; services and guests go on")


async def _access(settings: Settings) -> Access:
    """Raises OSError where there is no way to the API server."""
    if settings.service_account is None:
        return await Access.load(settings.kubeconfig)
    namespace = names.node_namespace(settings.node)
    return NodeAccess.of_pod(settings.service_account, namespace, settings.node, os.environ, time.monotonic)


async def _until_told(settings: Settings, kinds: Kinds) -> int:
    work = asyncio.create_task(run(settings, kinds))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        return 0
    except OSError as error:
        log.critical("%s", error)
        return 1
    return 0


def main(argv: Sequence[str] | None = None, kinds: Kinds = KINDS) -> int:
    settings = parse(sys.argv[1:] if argv is None else argv)
    configure(settings.log_level, node=settings.node)
    memory.settle()
    return asyncio.run(_until_told(settings, kinds))
