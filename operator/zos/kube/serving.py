"""What a process tells about itself over HTTP: /metrics (Prometheus), /healthz and /readyz."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest


async def serve(
    address: str,
    healthy: Callable[[], str | None],
    registry: CollectorRegistry = REGISTRY,
    before: Callable[[], Awaitable[None]] | None = None,
    waits_for: Callable[[], str | None] = lambda: None,
) -> tuple[web.AppRunner, int]:
    """Listens on ``host:port`` (port 0: any) until the runner's ``cleanup``; gives the port too. ``healthy`` says what is
    wrong, None: nothing. ``waits_for`` says what somebody else has to do first: no restart mends that, so /healthz tells it
    without failing, and /readyz fails. ``before`` is waited for when somebody asks for metrics: it gathers what takes a while.
    Raises OSError when the address can't be had."""

    async def metrics(_: web.Request) -> web.Response:
        if before is not None:
            await before()
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def health(_: web.Request) -> web.Response:
        wrong = healthy()
        return web.Response(status=503 if wrong else 200, text=f"{wrong or waits_for() or 'ok'}\n")

    async def ready(_: web.Request) -> web.Response:
        wrong = healthy() or waits_for()
        return web.Response(status=503 if wrong else 200, text=f"{wrong or 'ok'}\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/healthz", health)
    app.router.add_get("/readyz", ready)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, _, port = address.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]") or None, int(port))
    try:
        await site.start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, int(runner.addresses[0][1])
