"""A model's whole service in one process: compiler, rollout and engine as elsewhere, with nothing between them.

Knows no Ray and no protocol. `replica.py` carries requests to it; it imports torch.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, Sequence

import msgspec
from msgspec import structs

from compiler.target import detect_devices
from service.deployment import Deployment
from service.describe import as_clients_see
from service.engine.messages import (
    Cancel,
    Configure,
    EngineAddress,
    Failure,
    Infer,
    Loaded,
    LoadFailed,
    Result,
    Took,
    Unloaded,
)
from service.engine.worker import SWITCH_INTERVAL_S, Engine
from service.loading import Loader
from service.observe.store import process_store
from service.repository.catalog import Entry, State
from service.scratch import Scratch
from service.settings import Settings

log = logging.getLogger("torchere.ray")

Answer = tuple[Result | Failure, Sequence[memoryview]]
SLOT = 0  # the one engine


class CannotServe(Exception):
    """No version of the model can be served; the sentence says why not."""


class LocalService:
    """`await ready()`, then `infer` and `stream`; `close` when no request is under way any more."""

    def __init__(self, model: str, settings: Settings) -> None:
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._scratch = Scratch()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        device = detect_devices()[0] if settings.device == "auto" else settings.device
        configure = Configure(settings.log_format, settings.log_level, device, settings.threads)
        self._answers = _Answers(self._loop)
        self._engine = Engine(configure, _Parent(self), process_store())
        self._deployment = Deployment(
            (device,), lambda slot, order: self._engine.order(order), self._changed.set, lambda key, keep: None
        )
        self._deployment.started(SLOT, EngineAddress(device, "", 1))
        settings = settings.model_copy(update={"models": (model,)})
        self._loader = Loader(settings, device, self._deployment, self._scratch.path)
        self._next_id = 0

    def __repr__(self) -> str:
        return f"<LocalService {self._model} {self._deployment!r}>"

    def entries(self) -> tuple[Entry, ...]:
        """Every version of the model, as clients may see it."""
        return tuple(map(as_clients_see, self._deployment.catalog.versions(self._model)))

    async def ready(self) -> None:
        """Begin, and return when it answers requests, though something faster may still be made. Raises CannotServe."""
        self._loader.start()
        while any(entry.state is State.LOADING for entry in self.entries()):
            self._changed.clear()
            await self._changed.wait()
        if not any(entry.is_ready for entry in self.entries()):
            reasons = "; ".join(f"version {entry.version or '?'}: {entry.reason}" for entry in self.entries())
            raise CannotServe(f"model '{self._model}' cannot be served: {reasons}")

    async def infer(self, message: Infer, body: memoryview) -> Answer:
        """The one answer to a request whose tensors lie one behind the other in `body`."""
        message = self._own(message)
        future = self._answers.expect_one(message.id)
        try:
            self._engine.handle(message, body, self._answers)
            return await future
        except asyncio.CancelledError:
            self._engine.handle(Cancel(message.id), memoryview(b""), self._answers)
            raise
        finally:
            self._answers.forget(message.id)

    async def stream(self, message: Infer, body: memoryview) -> AsyncGenerator[Answer]:
        """Every answer to a request; whoever leaves before the last ends the work."""
        message, is_over = self._own(message), False
        queue = self._answers.expect_many(message.id)
        try:
            self._engine.handle(message, body, self._answers)
            while not is_over:
                answer = await queue.get()
                is_over = isinstance(answer[0], Failure) or answer[0].is_final
                yield answer
                self._engine.handle(Took(message.id, 1), memoryview(b""), self._answers)
        finally:
            self._answers.forget(message.id)
            if not is_over:
                self._engine.handle(Cancel(message.id), memoryview(b""), self._answers)

    def heard(self, message: msgspec.Struct) -> None:
        """What the engine tells, from a thread of its own."""
        if isinstance(message, Loaded | LoadFailed | Unloaded):
            self._loop.call_soon_threadsafe(self._deployment.answered, SLOT, message)

    async def close(self) -> None:
        """Make nothing more, answer what waits."""
        self._loader.stop()
        await asyncio.to_thread(self._engine.close)
        self._scratch.remove()

    def _own(self, message: Infer) -> Infer:
        """Ids of several frontends are not unique here."""
        self._next_id += 1
        return structs.replace(message, id=self._next_id)


class _Parent:
    """Where the engine's words to its parent go."""

    def __init__(self, service: LocalService) -> None:
        self._service = service

    def send(self, message: msgspec.Struct) -> None:
        self._service.heard(message)


class _Answers:
    """The connection of all requests: a batch wakes the loop once. Threads of the engine send, the loop receives."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[int, asyncio.Future[Answer] | asyncio.Queue[Answer]] = {}

    def expect_one(self, request_id: int) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[request_id] = future
        return future

    def expect_many(self, request_id: int) -> asyncio.Queue[Answer]:
        queue: asyncio.Queue[Answer] = asyncio.Queue()
        self._waiting[request_id] = queue
        return queue

    def forget(self, request_id: int) -> None:
        self._waiting.pop(request_id, None)

    def send(self, answers: Sequence[Answer]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, list(answers))

    def _deliver(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            match self._waiting.get(answer[0].id):
                case asyncio.Queue() as queue:
                    queue.put_nowait(answer)
                case asyncio.Future() as future if not future.done():
                    future.set_result(answer)
