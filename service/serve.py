"""The parent process: finds the models, has each compiled, starts the other processes, keeps them alive, drains them.

Never imports torch. Each step is a file of its own: `repository` finds, `loading.py` compiles, `deployment.py` brings
artifacts to engines, `engine/children.py` keeps processes alive. `cli.py` calls `serve`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from compiler.target import detect_devices
from service.cuda_memory import CudaMemory
from service.deployment import Deployment
from service.engine.children import Child, Program
from service.engine.messages import (
    Ask,
    ChildMessage,
    Configure,
    EngineAddress,
    Followed,
    Loaded,
    LoadFailed,
    ParentMessage,
    RegionOpened,
    SetLogging,
    Shared,
    Snapshot,
    Started,
    StartFailed,
    Unloaded,
)
from service.engine.visibility import environment_of
from service.engine.watchdog import Watchdog
from service.farewell import leave
from service.frontends import environment_of_frontend
from service.loading import Loader
from service.model_control import ModelControl
from service.observe.logs import follow_log_settings, log_settings_of
from service.observe.processes import ProcessWatch
from service.observe.sidecar import sidecar_arguments
from service.observe.store import process_store
from service.registrar import Registrar
from service.repository.catalog import Catalog
from service.scratch import Scratch
from service.settings import Settings
from service.startup import StartupError, address_of, bind, check_access, check_devices, choose_by_machine

log = logging.getLogger("torchere.parent")

COUNT_EVERY_S = 1.0


class Server:
    """One service. `await server.run()` returns its exit code."""

    def __init__(self, settings: Settings, metrics_directory: Path, on_settled: Callable[[Server], None]) -> None:
        devices = detect_devices() if settings.device == "auto" else (settings.device,)
        self.addresses: dict[str, str] = {}
        self._settings = choose_by_machine(settings, devices)
        self._metrics_directory = metrics_directory
        self._on_settled = on_settled
        self._devices = devices
        self._deployment = Deployment(
            devices,
            lambda slot, message: self._engines[slot].send(message),
            self._publish,
            lambda key, keep: self._models.retire(key, keep),
        )
        self._models: ModelControl
        self._memory = CudaMemory(
            devices,
            lambda slot, message: self._engines[slot].send(message),
            is_on=settings.shared_memory in ("cuda", "all"),
        )
        self._registrar = Registrar(
            Shared(log=log_settings_of(settings.log_level), has_cuda_memory=self._memory.is_usable),
            models=lambda: self._models,
            has_shared_memory=settings.shared_memory in ("system", "all"),
            publish=self._publish_shared,
            reply=lambda index, answer: self._frontends[index].send(answer),
        )
        self._registrar.memory = self._memory
        self._scratch = Scratch()
        self._frontends: list[Child] = []
        self._engines: list[Child] = []
        self._sidecars: list[Child] = []  # one, or none where it runs in a container of its own
        self._processes = ProcessWatch(process_store())
        self._sockets: list[socket.socket] = []
        self._watchdog = Watchdog(settings.batch_timeout_s, lambda slot: self._engines[slot].kill())
        self._stop = asyncio.Event()
        self._is_leaving = self._is_settled = False
        self._failure = ""

    def __repr__(self) -> str:
        return f"<Server {self._deployment!r}>"

    @property
    def _children(self) -> list[Child]:
        return [*self._sidecars, *self._frontends, *self._engines]

    @property
    def catalog(self) -> Catalog:
        return self._deployment.catalog

    async def run(self) -> int:
        """Serve until a signal comes, then drain. Raises StartupError where it cannot begin."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        loader = Loader(self._settings, self._devices[0], self._deployment, self._scratch.path)
        self._models = ModelControl(
            self._settings, loader, self._deployment, self._registrar.everyone_follows, self._scratch.path
        )
        try:
            check_access(self._settings)
            sockets, self._settings = bind(self._settings)
            check_devices(self._devices)
            loader.start(self._models.wanted_at_start)
            self._start_children(sockets)
            tasks = [asyncio.create_task(self._count_seconds())]
            watching = asyncio.create_task(self._watchdog.run())  # to the end: what was accepted may hang yet
            if self._settings.model_control_mode == "poll":
                tasks.append(asyncio.create_task(self._models.poll()))
            await self._stop.wait()
            for task in tasks:
                task.cancel()
            loader.stop()
            if self._failure:
                raise StartupError(self._failure)
            self._is_leaving = True
            self._publish()
            code = await leave(self._frontends, self._engines, self._sidecars, self._settings)
            watching.cancel()
        finally:
            loader.stop()
            for child in self._children:
                child.kill()
            self._scratch.remove()
        return code

    def _start_children(self, sockets: list[socket.socket]) -> None:
        if self._settings.metrics_sidecar:
            arguments = sidecar_arguments(self._metrics_directory, self._settings)
            program = Program("sidecar", "service.observe.sidecar", arguments)
            self._sidecars = [self._child(program, lambda: [], lambda message: self._heard("metrics", message))]
        self._sockets = sockets  # they stay open here: a frontend's successor inherits them
        for index, listening in enumerate(sockets):
            self._frontends.append(self._frontend(index, listening.fileno()))
        for slot, device in enumerate(self._devices):
            self._engines.append(self._engine(slot, device))
        for child in self._children:
            child.start()

    def _child(
        self,
        program: Program,
        first_words: Callable[[], list[ParentMessage]],
        on_message: Callable[[ChildMessage], None],
        on_exit: Callable[[], None] = lambda: None,
    ) -> Child:
        def exited(pid: int) -> None:
            self._processes.died(program.name)
            on_exit()

        return Child(program, first_words, on_message, exited)

    def _frontend(self, index: int, descriptor: int) -> Child:
        settings = self._settings

        def first_words() -> list[ParentMessage]:
            self._registrar.began(index)
            return [
                Configure(
                    settings.log_format,
                    settings.log_level,
                    settings=settings.model_dump_json(),
                    runtime_directory=str(self._scratch.path),
                ),
                self._snapshot(),
            ]

        def heard(message: ChildMessage) -> None:
            match message:
                case Ask():
                    self._registrar.ask(index, message)
                case Followed(number):
                    self._registrar.followed(index, number)
                case _:
                    self._heard("http", message)

        environment = environment_of_frontend(descriptor, os.environ)
        program = Program(f"frontend {index}", "service.frontend", (), (descriptor,), environment)
        return self._child(program, first_words, heard, lambda: self._registrar.died(index))

    def _engine(self, slot: int, device: str) -> Child:
        generation = 0

        def died() -> None:
            self._watchdog.ended(slot)
            self._scratch.empty(f"engine-{slot}")
            self._deployment.died(slot)

        def first_words() -> list[ParentMessage]:
            nonlocal generation
            generation += 1
            path = self._scratch.path / f"engine-{slot}-{generation}.sock"
            self._watchdog.began(slot, path)
            return [
                Configure(
                    self._settings.log_format,
                    self._settings.log_level,
                    device,
                    self._settings.threads,
                    str(path),
                    batch_timeout_s=self._settings.batch_timeout_s,
                    busy_poll_us=int(self._settings.busy_poll_us),
                ),
                SetLogging(self._registrar.shared.log),
                *self._memory.orders(slot),
                *self._deployment.orders(slot),
            ]

        def heard(message: ChildMessage) -> None:
            match message:
                case Started(path=path):
                    self._deployment.started(slot, EngineAddress(device, path, generation))
                case Loaded() | LoadFailed() | Unloaded():
                    if self._deployment.answered(slot, message):
                        self._engines[slot].serves()
                case RegionOpened():
                    self._memory.opened(message)
                case StartFailed(reason):
                    self._fail(reason)

        seen = {**environment_of(device, os.environ), **self._scratch.part(f"engine-{slot}")}
        program = Program(f"engine {device}", "service.engine.worker", environment=seen)
        return self._child(program, first_words, heard, died)

    def _heard(self, kind: str, message: ChildMessage) -> None:
        match message:
            case StartFailed(reason):
                self._fail(reason)
            case Started(http_port=http, grpc_port=grpc, metrics_port=metrics):
                ports = {"http": http, "grpc": grpc, "metrics": metrics}
                self.addresses |= {name: address_of(self._settings, name, port) for name, port in ports.items() if port}
        self._settle()

    def _snapshot(self) -> Snapshot:
        snapshot, shared = self._deployment.snapshot(), self._registrar.shared
        return msgspec.structs.replace(snapshot, shared=shared, is_leaving=self._is_leaving)

    def _publish(self) -> None:
        for frontend in self._frontends:
            frontend.send(self._snapshot())
        self._settle()

    def _publish_shared(self) -> None:
        """A client has changed what all processes share."""
        follow_log_settings(self._registrar.shared.log)
        for engine in self._engines:
            engine.send(SetLogging(self._registrar.shared.log))
        self._publish()

    async def _count_seconds(self) -> None:
        """How long models serve on their fallbacks is counted while it lasts, and what processes use."""
        while True:
            await asyncio.sleep(COUNT_EVERY_S)
            self._deployment.count_seconds(COUNT_EVERY_S)
            self._processes.look({child.pid: child.program.name for child in self._children})

    def _settle(self) -> None:
        """Tell once, when every model is ready or has failed and every address is known."""
        if not self._is_settled and len(self.addresses) == 2 + len(self._sidecars) and not self._deployment.is_loading:
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


async def serve(settings: Settings, metrics_directory: Path, on_settled: Callable[[Server], None]) -> int:
    """Run a service until it is told to stop."""
    return await Server(settings, metrics_directory, on_settled).run()
