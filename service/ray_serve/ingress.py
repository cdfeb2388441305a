"""The frontend of an application of Ray Serve: HTTP behind Ray's proxies as ASGI, gRPC on a port of its own.

Knows no Ray: `app.py` gives it the deployments' handles. What needs a parent process is refused in plain words.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, cast

from service.certificates import Certificates
from service.control import Control
from service.engine.messages import Change
from service.errors import Unsupported
from service.extensions import Extensions
from service.observe.recorders import RequestRecorder
from service.observe.store import process_store
from service.plane import Engines, Plane
from service.ray_serve.catalog import Deployments
from service.ray_serve.handles import Faults, HandleEngines
from service.rest.app import create_app
from service.rest.body import Receive
from service.rpc.server import RpcOptions, RpcServer, start_rpc
from service.security import make_guard
from service.settings import Settings
from service.statistics import Key, Totals
from service.tls import make_tls
from service.tracing import make_watched

log = logging.getLogger("torchere.ray")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MODELS_ARE_FIXED = (
    "under Ray Serve each model is a deployment: make the Serve config anew with `torchere deploy ray`, then give it "
    "to `serve deploy`"
)
NO_PARENT = "under Ray Serve no replica can change the others: shared memory, trace and log settings are not there"
NO_TOTALS = "under Ray Serve each replica counts for itself: ask Ray's metrics (ray_serve_*), or torchere's, per node"
LACKS = frozenset({"statistics", "logging"})


class NoParent:
    """Changes nothing: what clients set would hold in one replica of many."""

    async def ask(self, change: Change) -> None:
        raise Unsupported(NO_PARENT)


class Ingress:
    """An ASGI application. Its lifespan is that of the gRPC server and of the questions to the deployments."""

    def __init__(self, settings: Settings, handles: Mapping[str, Any], faults: Faults) -> None:
        self._settings = settings
        # Of what a plane may ask of engines, the shortcut of uvicorn's connections is left out: Ray's proxy has them.
        engines = cast(Engines, HandleEngines(handles, faults))
        counter = RequestRecorder(process_store())
        self._plane = Plane(engines, counter)
        self._plane.says_exhausted = settings.queue_full_status == "exhausted"
        extensions = Extensions(self._plane, NoParent())
        extensions.why_fixed = MODELS_ARE_FIXED
        self._control = Control(self._plane, extensions, _no_totals)
        self._control.lacks = LACKS
        self._deployments = Deployments(handles, self._plane.follow)
        self._guard = make_guard(settings.token_file, settings.restricted_api)
        self._app = create_app(self._plane, self._control, settings, self._guard)
        self._watched = make_watched(settings, counter.exported, self._backend_of)
        self._app.lane.watcher = self._watched.watcher
        self._rpc: RpcServer | None = None
        self._following: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Ingress {self._plane!r}>"

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await _live(receive, send, self._start, self._stop)

    async def _start(self) -> None:
        self._following = asyncio.create_task(self._deployments.follow())
        settings = self._settings
        tls = make_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        certificates = Certificates(tls) if tls is not None else None
        # Replicas of one node share the port, and the kernel spreads connections over them.
        options = RpcOptions(
            settings.max_body_bytes, True, certificates, self._guard, settings.restricted_status, self._watched.watcher
        )
        self._rpc = await start_rpc(self._plane, self._control, settings.host, settings.grpc_port, options)
        log.info("gRPC on %s:%d", settings.host, self._rpc.port)

    async def _stop(self) -> None:
        """Ray has ended the HTTP requests under way; those of gRPC it knows nothing of are ended here."""
        self._plane.is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await self._plane.wait_until_idle()
        if self._rpc is not None:
            self._rpc.set_serving(False)
            await self._rpc.stop(self._settings.drain_timeout_s)
        if self._following is not None:
            self._following.cancel()
        await asyncio.to_thread(self._watched.close)

    def _backend_of(self, model: str, version: str) -> str:
        """What answers requests to it, as its replicas last said."""
        catalog = self._plane.catalog
        return catalog.entry(model, version).rung if catalog.has(model, version) else ""


async def _live(
    receive: Receive, send: Send, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
) -> None:
    """The lifespan protocol of ASGI: what fails while starting ends the replica, with its reason."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await start()
            except Exception as error:
                log.exception("the ingress cannot start")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _no_totals() -> dict[Key, Totals]:
    raise Unsupported(NO_TOTALS)
