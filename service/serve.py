"""The parent process: finds the models, has each compiled, starts the other processes, keeps them alive, drains them.

Never imports torch. Each step is a file of its own: `repository` finds, `loading.py` compiles, `engine/fleet.py`
decides what is ready, `engine/children.py` keeps processes alive. `cli.py` calls `serve`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from prometheus_client import multiprocess

from compiler import Artifact
from compiler.errors import CompileError
from compiler.target import detect_devices, detect_target
from service.engine.children import Child, Program
from service.engine.fleet import Fleet, Key
from service.engine.messages import (
    ChildMessage,
    Configure,
    EngineAddress,
    Load,
    Loaded,
    LoadFailed,
    ParentMessage,
    Snapshot,
    Started,
    StartFailed,
)
from service.loading import Loader
from service.observe.metrics import RESTARTS, publish_catalog
from service.ports import HTTP_SOCKET_VARIABLE, listening_sockets, probe_port
from service.repository.catalog import Catalog, Entry, State
from service.settings import Settings

log = logging.getLogger("torchere.parent")

LEAVE_MARGIN_S = 5.0  # beyond the drain timeout, for closing sockets and leaving the interpreter


class StartupError(Exception):
    """The service cannot start; the sentence says what to change."""


class Server:
    """One service. `await server.run()` returns its exit code."""

    def __init__(self, settings: Settings, metrics_directory: Path, on_settled: Callable[[Server], None]) -> None:
        devices = detect_devices() if settings.device == "auto" else (settings.device,)
        self.catalog = Catalog()
        self.addresses: dict[str, str] = {}
        self._settings = settings
        self._metrics_directory = metrics_directory
        self._on_settled = on_settled
        self._devices = devices
        self._fleet = Fleet(devices)
        self._artifacts: dict[Key, Artifact] = {}
        self._runtime_directory = Path(tempfile.mkdtemp(prefix="torchere-"))
        self._frontends: list[Child] = []
        self._engines: list[Child] = []
        self._sidecar: Child | None = None
        self._sockets: list[socket.socket] = []
        self._stop = asyncio.Event()
        self._failure = ""
        self._is_settled = False

    def __repr__(self) -> str:
        return f"<Server {self.catalog!r} {self._fleet!r}>"

    async def run(self) -> int:
        """Serve until a signal comes, then drain. Raises StartupError where it cannot begin."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        loader = Loader(self._settings, self._devices[0], self._changed, self._compiled)
        try:
            sockets = self._bind()
            self._check_devices()
            loader.start()
            self._start_children(sockets)
            await self._stop.wait()
            loader.stop()
            if self._failure:
                raise StartupError(self._failure)
            await self._drain()
        finally:
            loader.stop()
            for child in [*self._frontends, *self._engines, *([self._sidecar] if self._sidecar else [])]:
                child.kill()
            shutil.rmtree(self._runtime_directory, ignore_errors=True)
        return 0

    def _check_devices(self) -> None:
        """One artifact serves every device, so they must be equal."""
        try:
            targets = {msgspec.structs.replace(detect_target(device), device="") for device in self._devices}
        except CompileError as error:
            raise StartupError(f"{error}: choose another with --device") from error
        if len(targets) > 1:
            names = ", ".join(sorted(target.name for target in targets))
            raise StartupError(f"the GPUs of this machine differ ({names}): choose one with --device cuda:0")

    def _bind(self) -> list[socket.socket]:
        settings = self._settings
        try:
            sockets = listening_sockets(settings.host, settings.http_port, settings.frontends, "--http-port")
            grpc_port = probe_port(settings.host, settings.grpc_port, "--grpc-port")
            metrics_port = probe_port(settings.host, settings.metrics_port, "--metrics-port")
        except OSError as error:
            raise StartupError(str(error)) from error
        self._settings = settings.model_copy(update={"grpc_port": grpc_port, "metrics_port": metrics_port})
        return sockets

    def _start_children(self, sockets: list[socket.socket]) -> None:
        settings = self._settings
        self._sidecar = self._child(
            Program(
                "sidecar",
                "service.observe.sidecar",
                (
                    "--directory",
                    str(self._metrics_directory),
                    "--host",
                    settings.host,
                    "--port",
                    str(settings.metrics_port),
                ),
            ),
            lambda: [],
            lambda message: self._heard("metrics", message),
        )
        words = Configure(settings.log_format, settings.log_level, settings=settings.model_dump_json())
        self._sockets = sockets  # they stay open here: a frontend's successor inherits them
        for index, listening in enumerate(sockets):
            descriptor = listening.fileno()
            program = Program(
                f"frontend {index}", "service.frontend", (), (descriptor,), {HTTP_SOCKET_VARIABLE: str(descriptor)}
            )
            child = self._child(
                program, lambda: [words, self._snapshot()], lambda message: self._heard("http", message)
            )
            self._frontends.append(child)
        for slot, device in enumerate(self._devices):
            self._engines.append(self._engine(slot, device))
        for child in [self._sidecar, *self._frontends, *self._engines]:
            child.start()

    def _child(
        self,
        program: Program,
        first_words: Callable[[], list[ParentMessage]],
        on_message: Callable[[ChildMessage], None],
        on_exit: Callable[[], None] = lambda: None,
    ) -> Child:
        def exited(pid: int) -> None:
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
            RESTARTS.labels(program.name.partition(" ")[0]).inc()
            on_exit()

        return Child(program, first_words, on_message, exited)

    def _engine(self, slot: int, device: str) -> Child:
        generation = 0

        def first_words() -> list[ParentMessage]:
            nonlocal generation
            generation += 1
            path = self._runtime_directory / f"engine-{slot}-{generation}.sock"
            return [
                Configure(
                    self._settings.log_format,
                    self._settings.log_level,
                    device,
                    self._settings.threads,
                    str(path),
                ),
                *(self._load(artifact, key) for key, artifact in self._artifacts.items()),
            ]

        def heard(message: ChildMessage) -> None:
            match message:
                case Started(path=path):
                    self._fleet.started(slot, EngineAddress(device, path, generation))
                case Loaded(name, version, seconds):
                    self._fleet.loaded(slot, (name, version))
                    entry = self.catalog.entry(name, version)
                    if not self._is_settled and not entry.is_ready:
                        self.catalog.put(msgspec.structs.replace(entry, seconds=entry.seconds + seconds))
                case LoadFailed(name, version, reason):
                    self._fleet.failed(slot, (name, version), reason)
                case StartFailed(reason):
                    self._fail(reason)
            self._follow_fleet()

        def died() -> None:
            self._fleet.died(slot)
            self._follow_fleet()

        return self._child(Program(f"engine {device}", "service.engine.worker"), first_words, heard, died)

    def _heard(self, kind: str, message: ChildMessage) -> None:
        match message:
            case StartFailed(reason):
                self._fail(reason)
            case Started(http_port=http, grpc_port=grpc, metrics_port=metrics):
                ports = {"http": http, "grpc": grpc, "metrics": metrics}
                self.addresses |= {name: f"{self._settings.host}:{port}" for name, port in ports.items() if port}
        self._settle()

    def _changed(self, entry: Entry) -> None:
        """The loader found, compiles, or could not compile a version."""
        self.catalog.put(entry)
        self._publish()

    def _compiled(self, entry: Entry, artifact: Artifact) -> None:
        """A version has its artifact: every engine loads it."""
        self._artifacts[entry.name, entry.version] = artifact
        self.catalog.put(entry)
        for engine in self._engines:
            engine.send(self._load(artifact, (entry.name, entry.version)))
        self._follow_fleet()

    def _load(self, artifact: Artifact, key: Key) -> Load:
        return Load(self.catalog.entry(*key), str(artifact.folder))

    def _follow_fleet(self) -> None:
        for key in self._artifacts:
            entry = self.catalog.entry(*key)
            state, reason = self._fleet.follow(entry)
            if state is State.UNAVAILABLE and entry.state is not State.UNAVAILABLE:
                log.error("model %s version %s: %s", *key, reason)
            self.catalog.put(msgspec.structs.replace(entry, state=state, reason=reason))
        self._publish()

    def _publish(self) -> None:
        publish_catalog(self.catalog)
        for frontend in self._frontends:
            frontend.send(self._snapshot())
        self._settle()

    def _snapshot(self) -> Snapshot:
        ready = frozenset((entry.name, entry.version) for entry in self.catalog.entries() if entry.is_ready)
        return Snapshot(self.catalog.entries(), self._fleet.usable(ready))

    def _settle(self) -> None:
        """Tell once, when every model is ready or has failed and every address is known."""
        is_loading = any(entry.state is State.LOADING for entry in self.catalog.entries())
        if not self._is_settled and len(self.addresses) == 3 and not is_loading:
            self._is_settled = True
            self._on_settled(self)

    def _signalled(self) -> None:
        if self._stop.is_set():
            log.warning("second signal: leaving at once")
            for child in [*self._frontends, *self._engines]:
                child.kill()
            os._exit(1)
        self._stop.set()

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._stop.set()

    async def _drain(self) -> None:
        """Frontends first: they refuse new work and wait for the engines' answers; then engines, last the metrics."""
        log.info("shutting down: finishing %s", "what was accepted")
        timeout_s = self._settings.drain_timeout_s + LEAVE_MARGIN_S
        await asyncio.gather(*(child.leave(timeout_s) for child in self._frontends))
        await asyncio.gather(*(child.leave(timeout_s) for child in self._engines))
        assert self._sidecar is not None, "started with the others"
        await self._sidecar.leave(LEAVE_MARGIN_S)


async def serve(settings: Settings, metrics_directory: Path, on_settled: Callable[[Server], None]) -> int:
    """Run a service until it is told to stop."""
    return await Server(settings, metrics_directory, on_settled).run()
