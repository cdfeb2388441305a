"""The frontend process: HTTP and gRPC in one event loop, in front of the engines. Never imports torch.

Started by the parent with the listening HTTP socket inherited. `plane.py` is the door both protocols go through.

    python -m service.frontend
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
import uvloop

from service.certificates import Certificates
from service.control import Control
from service.engine.client import EngineClients
from service.engine.lending import Lender
from service.engine.link import FrameProtocol, inherited_socket
from service.engine.messages import Answer, Configure, Drain, Followed, Shared, Snapshot, Started, StartFailed
from service.extensions import Extensions
from service.heap import give_back_now_and_then
from service.looking_loop import LookingLoop
from service.observe.adding import LAG_S, PEER_LAG_S
from service.observe.logs import follow_log_settings, set_up_logging
from service.observe.recorders import RequestRecorder
from service.observe.store import process_store
from service.observe.watching import Watcher
from service.parent import ParentLink
from service.plane import Plane
from service.ports import HTTP_SOCKET_VARIABLE
from service.repository.catalog import Catalog
from service.response_cache import ResponseCache
from service.rest.app import create_app
from service.rest.protocol import lane_protocol
from service.rest.stalled import end_stalled
from service.rpc.server import RpcOptions, RpcServer, start_rpc
from service.security import Guard, TokenFileError, make_guard
from service.settings import Settings
from service.statistics import Statistics
from service.tls import TlsError, make_tls
from service.tracing import Watched, make_watched

log = logging.getLogger("torchere.frontend")

CUT_SHORT_EXIT = 1  # as the parent's own
PUBLISH_EVERY_S = 0.25
FAREWELL_S = 0.2  # clients on open connections get a refusal to read, not a reset


class HttpServer(uvicorn.Server):
    """uvicorn, with the signals left to the parent, and an event that tells when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Frontend:
    """Follows the parent's word; `run` returns when it has drained or the parent is gone."""

    def __init__(self) -> None:
        store = process_store()
        assert store.directory is not None, "the parent names it"
        self._counter = RequestRecorder(store)
        self._statistics = Statistics(store.directory, self._count_all)
        self._engines = EngineClients(self._counter.turned)
        self._plane = Plane(self._engines, self._counter)
        self._parent = ParentLink(lambda ask: self._send(ask))
        self._control = Control(self._plane, Extensions(self._plane, self._parent), totals=self._statistics.ask)
        self._orders: asyncio.Queue[Configure | Snapshot | Drain | None] = asyncio.Queue()
        self._send: Callable[[msgspec.Struct], None] = lambda message: None
        self._http: HttpServer | None = None
        self._rpc: RpcServer | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._drain_timeout_s = 0.0
        self._has_peers = False
        self._beside: list[asyncio.Task[None]] = []
        self._watched = Watched()

    async def run(self) -> int:
        """Serve until told to drain. The exit code: 0, or CUT_SHORT_EXIT where a request was not finished in time."""
        loop = asyncio.get_running_loop()
        _, link = await loop.create_connection(
            lambda: FrameProtocol(
                Configure | Snapshot | Drain | Answer,  # type: ignore[arg-type]
                self._heard,
                lambda: self._orders.put_nowait(None),
            ),
            sock=inherited_socket(),
        )
        self._send = link.send
        self._begin_beside(self._publish_in_flight())
        self._begin_beside(give_back_now_and_then())
        configure: Configure | None = None
        draining: asyncio.Task[int] | None = None
        while True:
            match await self._orders.get():
                case Configure() as configure:  # it listens when it knows the models: before, it would deny them
                    self._engines.lender = _make_lender(configure)
                    self._engines.looking = _make_looking(configure)
                case Snapshot(entries, engines, shared, is_leaving):
                    # Engines first: an entry that reads READY must find its engine.
                    await self._engines.follow(engines)
                    self._plane.follow(Catalog(entries))
                    self._plane.is_leaving = is_leaving
                    self._engines.resender.follow(self._plane.catalog)
                    self._follow(shared)
                    if self._http is None:
                        assert configure is not None, "the parent's first word"
                        link.send(await self._start(configure))
                case Drain():
                    # Beside what is yet to be followed: an engine that dies now is replaced, and finishes what it had.
                    draining = asyncio.create_task(self._drain())
                    draining.add_done_callback(lambda _: self._orders.put_nowait(None))
                case None:
                    break
        for task in self._beside:
            task.cancel()
        self._counter.settle()
        self._parent.lost()
        return draining.result() if draining is not None and draining.done() else 0

    async def _count_all(self) -> None:
        """Have all processes count what they put off: the other frontends do so by themselves."""
        self._counter.settle()
        await asyncio.gather(self._engines.count(LAG_S), asyncio.sleep(PEER_LAG_S if self._has_peers else 0.0))

    def _begin_beside(self, work: Coroutine[Any, Any, None]) -> None:
        self._beside.append(asyncio.create_task(work))

    def _heard(self, message: Configure | Snapshot | Drain | Answer, _: memoryview) -> None:
        if isinstance(message, Answer):
            self._parent.answered(message)
        else:
            self._orders.put_nowait(message)

    def _follow(self, shared: Shared) -> None:
        """Go by what clients have set, and say so: whoever set it waits for every frontend."""
        extensions = self._control.extensions
        if shared.number and shared.number == extensions.shared.number:
            return
        extensions.shared = shared
        self._plane.regions.follow(shared.regions)
        self._plane.cuda_regions = shared.cuda_regions
        self._watched.follow(shared.trace)
        if self._http is not None:
            follow_log_settings(shared.log)
        self._send(Followed(shared.number))

    async def _publish_in_flight(self) -> None:
        """A gauge is read every few seconds: to set it at every request would cost more than it tells."""
        while True:
            self._counter.in_flight(self._plane.in_flight)
            await asyncio.sleep(PUBLISH_EVERY_S)

    async def _start(self, configure: Configure) -> Started | StartFailed:
        settings = Settings.model_validate_json(configure.settings)
        set_up_logging(settings.log_format, settings.log_level, "frontend")
        self._drain_timeout_s = settings.drain_timeout_s
        self._has_peers = settings.frontends > 1
        if self._has_peers:
            self._counter.hasten(PEER_LAG_S)
        self._engines.resender.timeout_s = settings.rerun_timeout_s
        follow_log_settings(self._control.extensions.shared.log)
        self._control.extensions.is_explicit = settings.model_control_mode == "explicit"
        self._control.extensions.runtime_directory = Path(configure.runtime_directory)
        self._control.has_shared_memory = settings.shared_memory in ("system", "all")
        if settings.response_cache_max_size:
            self._plane.cache = ResponseCache(settings.response_cache_max_size)
            self._plane.follow(self._plane.catalog)
        self._plane.says_exhausted = settings.queue_full_status == "exhausted"
        self._watched = make_watched(settings, self._counter.exported, self._backend_of)
        self._watched.follow(self._control.extensions.shared.trace)
        self._control.extensions.trace_defaults = self._watched.defaults
        http_socket = socket.socket(fileno=int(os.environ[HTTP_SOCKET_VARIABLE]))
        try:
            guard = make_guard(settings.token_file, settings.restricted_api)
            app = create_app(self._plane, self._control, settings, guard)
            app.lane.watcher = self._watched.watcher
            app.on_opened = gc.freeze  # as below
            app.lane.arena = self._engines.lender.arena if self._engines.lender is not None else None
            tls = make_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
            certificates = Certificates(tls) if tls is not None else None
            self._rpc = await start_rpc(
                *(self._plane, self._control, settings.host, settings.grpc_port),
                _rpc_options(settings, certificates, guard, self._watched.watcher),
            )
        except (TlsError, TokenFileError) as error:
            return StartFailed(str(error))  # the files have changed since the parent tried them
        except OSError as error:
            return StartFailed(
                f"gRPC on {settings.host}:{settings.grpc_port}: {error}: choose another with --grpc-port"
            )
        config = uvicorn.Config(
            app,
            http=lane_protocol(app.lane),
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # `observe/watching.py` writes it, for gRPC too
            server_header=False,
            proxy_headers=False,  # nothing here asks for the client's address
            timeout_keep_alive=75,  # longer than the usual 60 s of a load balancer, which must be the one to close
        )
        config.load()
        if certificates is not None:
            config.ssl = certificates.context
        self._http = HttpServer(config)
        connections = self._http.server_state.connections
        self._begin_beside(end_stalled(settings.stall_timeout_s, lambda: connections))
        self._http_task = asyncio.create_task(self._http.serve(sockets=[http_socket]))
        await self._http.is_listening.wait()
        gc.collect()
        gc.freeze()  # what is here now stays: later collections need not look at it, and come oftener for what does not
        return Started(os.getpid(), http_port=http_socket.getsockname()[1], grpc_port=self._rpc.port)

    async def _drain(self) -> int:
        """Refuse what is new, answer what was accepted, then close. The exit code."""
        self._plane.is_draining = True
        log.info("draining: %d requests are under way", self._plane.in_flight)
        if self._http is None or self._rpc is None or self._http_task is None:
            return 0  # told to leave before it had begun
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._drain_timeout_s):
                await self._plane.wait_until_idle()
        await asyncio.sleep(FAREWELL_S)
        self._rpc.set_serving(False)
        self._http.should_exit = True
        self._parent.lost()  # it loads nothing any more: who waits for that is told
        code = CUT_SHORT_EXIT if self._plane.in_flight else 0
        if code:
            log.warning("%d requests were not finished within drain_timeout_s", self._plane.in_flight)
            self._http.force_exit = True  # else it waits for their connections
        await asyncio.gather(self._rpc.stop(0.0 if code else self._drain_timeout_s), self._http_task)
        await asyncio.to_thread(self._watched.close)
        return code

    def _backend_of(self, model: str, version: str) -> str:
        """What answers requests to it, where it is still served."""
        catalog = self._plane.catalog
        return catalog.entry(model, version).rung if catalog.has(model, version) else ""


def _make_lender(configure: Configure) -> Lender | None:
    """What large tensors travel by; None: by the sockets."""
    byte_size = Settings.model_validate_json(configure.settings).transport_memory
    try:
        return Lender(byte_size) if byte_size else None
    except OSError as error:
        log.warning("no memory can be shared with engines, so that large tensors take longer: %s", error)
        return None


def _make_looking(configure: Configure) -> LookingLoop | None:
    """What keeps the loop awake while one client is alone; None: nothing does."""
    limit_us = int(Settings.model_validate_json(configure.settings).busy_poll_us)
    return LookingLoop(limit_us) if limit_us else None


def _rpc_options(
    settings: Settings, certificates: Certificates | None, guard: Guard | None, watcher: Watcher | None
) -> RpcOptions:
    return RpcOptions(
        *(settings.max_body_bytes, settings.frontends > 1, certificates, guard, settings.restricted_status, watcher),
        backlog=settings.grpc_backlog,
    )


def main() -> None:
    """Run one frontend."""
    sys.exit(uvloop.run(Frontend().run()))


if __name__ == "__main__":
    main()
