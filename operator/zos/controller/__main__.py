"""``python -m zos.controller``: see ``--help``. Every setting has an environment variable ZOS_<NAME> too."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import socket
from collections.abc import Callable

from zos.api.gridnode import DOMAIN, MOST_DOMAIN
from zos.api.text import REFERENCE
from zos.controller.garbage import Garbage
from zos.controller.main import Controller, ControllerSettings, run
from zos.kinds.gridnode.joining import Membership
from zos.kinds.kind import Kinds
from zos.kinds.registry import KINDS
from zos.kube import log
from zos.kube.serving import serve


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="zos-controller", description="Resolves Zero-OS workloads for the nodes of a grid.")

    def setting(name: str, default: str, help: str, type: Callable[[str], str] = str) -> None:
        variable = "ZOS_" + name.upper().replace("-", "_")
        value = os.environ.get(variable, default)
        parser.add_argument(f"--{name}", default=value, type=type, help=f"{help} [${variable}]")

    setting("kubeconfig", "", "how to reach the API server; empty: as a pod does")
    setting("identity", f"{socket.gethostname()}-{os.getpid()}", "this process among its peers")
    setting("metrics", "0.0.0.0:9441", "where /metrics and /healthz listen")
    setting("log-level", "INFO", "DEBUG, INFO, WARNING or ERROR")
    setting("resync", "300", "seconds between full resyncs")
    setting("workers", "1000", "resolutions carried out at once")
    setting("farm", "", "Farm of the Kubernetes Nodes that join by themselves; empty: of none", _farm)
    setting("public-interface", "", "their bridge or NIC on the farm's public segment, like br0; empty: none", _interface)
    setting("gateway-domain", "", "domain under which their gateways publish names; empty: they are no gateways", _domain)
    return parser.parse_args()


def _farm(text: str) -> str:
    if text and not (len(text) <= 253 and re.fullmatch(REFERENCE, text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a Farm: lower-case letters, digits, '-' and '.'")
    return text


def _interface(text: str) -> str:
    if text and (text in (".", "..") or not re.fullmatch(r"[^/\s]{1,15}", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of an interface: 1 to 15 characters, without / and blanks")
    return text


def _domain(text: str) -> str:
    if text and not (len(text) <= MOST_DOMAIN and re.fullmatch(DOMAIN, text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no domain in lower case, like gw.example.org")
    return text


async def main(kinds: Kinds = KINDS) -> None:
    arguments = parse()
    Garbage.configure()
    log.configure(arguments.log_level, identity=arguments.identity)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = ControllerSettings(
        kubeconfig=arguments.kubeconfig or None,
        identity=arguments.identity,
        workers=int(arguments.workers),
        resync=float(arguments.resync),
        membership=Membership(arguments.farm or None, arguments.public_interface or None, arguments.gateway_domain or None),
    )
    controllers: list[Controller] = []
    runner, _ = await serve(arguments.metrics, lambda: controllers[0].unhealthy() if controllers else "starting")
    try:
        await run(settings, stop, controllers.append, kinds)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
