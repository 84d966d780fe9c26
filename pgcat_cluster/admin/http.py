"""The HTTP endpoints: is the node alive, is it ready, its metrics, and its status as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from pgcat_cluster.admin.control import ControlPort
from pgcat_cluster.telemetry.metrics import CONTENT_TYPE, render_metrics
from pgcat_cluster.telemetry.redaction import redact_settings
from pgcat_cluster.telemetry.snapshot import NodeSnapshot

SHUTDOWN_TIMEOUT_S = 1.0


def build_application(control: ControlPort) -> web.Application:
    """Every answer is made of one snapshot; nothing here changes the node."""

    async def live(request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def ready(request: web.Request) -> web.Response:
        reasons = control.snapshot(connections=False, settings=False).not_ready
        return web.json_response(
            {"ready": not reasons, "reasons": list(reasons)}, status=503 if reasons else 200
        )

    async def metrics(request: web.Request) -> web.Response:
        # In a thread, for it takes milliseconds per pool: the loop belongs to the clients.
        snapshot = control.snapshot(connections=False, settings=False)
        text = await asyncio.to_thread(render_metrics, snapshot, control.history)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def status(request: web.Request) -> web.Response:
        text = await asyncio.to_thread(render_status, control.snapshot(connections=False))
        return web.Response(body=text, content_type="application/json")

    application = web.Application(middlewares=[_uncached])
    application.router.add_get("/live", live)
    application.router.add_get("/ready", ready)
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/status", status)
    return application


@web.middleware
async def _uncached(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    response = await handler(request)
    response.headers["Cache-Control"] = "no-store"
    return response


def render_status(snapshot: NodeSnapshot) -> bytes:
    """The snapshot as JSON, with every secret among its settings redacted."""
    public = msgspec.structs.replace(snapshot, settings=redact_settings(snapshot.settings))
    return msgspec.json.encode(public)


class HttpEndpoints:
    """Serves the endpoints in the node's own loop, from `start` to `stop`; signals stay with the node."""

    def __init__(self, control: ControlPort, *, host: str, port: int) -> None:
        self._runner = web.AppRunner(
            build_application(control),
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
        )
        self._host = host
        self._port = port

    async def start(self) -> int:
        """Listens, and returns the port (chosen by the system if 0 was asked for). Raises OSError."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        await self._runner.cleanup()
