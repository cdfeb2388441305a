"""In the parent: carries out what clients ask through any frontend, and answers when every frontend goes by it.

So a client may register through one frontend and use through another at once. Knows no process: `serve.py` gives it the
ways to publish and to reply, and tells it of frontends that begin, follow and die.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from msgspec.structs import replace

from service.cuda_memory import NO_GPU
from service.engine.messages import (
    Answer,
    Ask,
    ChangeLog,
    ChangeTrace,
    LoadModel,
    RegisterCudaRegion,
    RegisterRegion,
    Shared,
    UnloadModel,
    UnregisterRegions,
)
from service.errors import Code, ServiceError, Unsupported
from service.shared_memory import CudaRegion, check_free, register, unregister
from service.tuning import change_log, change_trace

log = logging.getLogger("torchere.parent")

FOLLOW_TIMEOUT_S = 10.0  # a frontend that is stuck must not keep the others' clients waiting
INTERNAL = "internal error: the server's log has the details"

Reply = Callable[[int, Answer], None]


class Models(Protocol):
    """What is asked of `model_control.py`."""

    async def load(self, change: LoadModel) -> None: ...
    async def unload(self, change: UnloadModel) -> None: ...


class Memory(Protocol):
    """What is asked of `cuda_memory.py`."""

    async def open(self, wanted: CudaRegion, handle: bytes) -> CudaRegion: ...
    def close(self, regions: Iterable[CudaRegion]) -> None: ...


class NoMemory:
    """Where no GPU's memory can be registered, and `reason` says why not."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def open(self, wanted: CudaRegion, handle: bytes) -> CudaRegion:
        raise Unsupported(self._reason)

    def close(self, regions: Iterable[CudaRegion]) -> None:
        assert not regions, "none was opened"


class Registrar:
    """What clients have set. `publish()` sends a snapshot to all frontends, `reply(frontend, answer)` goes to one."""

    def __init__(
        self,
        shared: Shared,
        *,
        models: Callable[[], Models],
        has_shared_memory: bool,
        publish: Callable[[], None],
        reply: Reply,
        follow_timeout_s: float = FOLLOW_TIMEOUT_S,
    ) -> None:
        self.shared = shared
        self.memory: Memory = NoMemory(NO_GPU)
        self._models = models
        self._has_shared_memory = has_shared_memory
        self._publish = publish
        self._reply = reply
        self._follow_timeout_s = follow_timeout_s
        self._followed: dict[int, int] = {}  # frontend -> the number it goes by
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Registrar {self.shared.number} changes, {len(self._waiting)} to be followed>"

    def began(self, frontend: int) -> None:
        """A frontend's process was started; it is told the newest snapshot first."""
        self._followed[frontend] = 0

    def followed(self, frontend: int, number: int) -> None:
        """A frontend goes by what was shared under this number."""
        if frontend in self._followed:
            self._followed[frontend] = number
        self._settle()

    def died(self, frontend: int) -> None:
        """A frontend is gone: nobody waits for it."""
        self._followed.pop(frontend, None)
        self._settle()

    def ask(self, frontend: int, ask: Ask) -> None:
        """Carry out what was asked, then reply."""
        task = asyncio.get_running_loop().create_task(self._carry_out(frontend, ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, frontend: int, ask: Ask) -> None:
        try:
            await self._change(ask)
            await self._reached()
            self._reply(frontend, Answer(ask.id))
        except ServiceError as error:
            self._reply(frontend, Answer(ask.id, error.code, str(error)))
        except Exception:
            log.exception("%s failed", type(ask.change).__name__)
            self._reply(frontend, Answer(ask.id, Code.FAILED, INTERNAL))

    async def _change(self, ask: Ask) -> None:
        before = self.shared
        match ask.change:
            case RegisterRegion(region):
                regions = register(before.regions, region, is_on=self._has_shared_memory)
                check_free(region.name, before.cuda_regions)  # names are unique over both kinds of memory
                self._set(replace(before, regions=regions))
            case RegisterCudaRegion(wanted, handle):
                await self._register_cuda(wanted, handle)
            case UnregisterRegions(name, is_cuda=True):
                await self._unregister_cuda(name)
            case UnregisterRegions(name):
                self._set(replace(before, regions=unregister(before.regions, name)))
            case ChangeTrace(model, changes):
                self._set(replace(before, trace=change_trace(before.trace, model, changes)))
            case ChangeLog(changes):
                self._set(replace(before, log=change_log(before.log, changes)))
            case LoadModel() as change:
                await self._models().load(change)
                self._set(self.shared)
            case UnloadModel() as change:
                await self._models().unload(change)
                self._set(self.shared)

    async def _register_cuda(self, wanted: CudaRegion, handle: bytes) -> None:
        self._check_name(wanted.name)
        region = await self.memory.open(wanted, handle)
        try:
            self._check_name(wanted.name)  # others may have come first meanwhile
        except ServiceError:
            self.memory.close([region])
            raise
        self._set(replace(self.shared, cuda_regions=(*self.shared.cuda_regions, region)))

    def _check_name(self, name: str) -> None:
        check_free(name, self.shared.cuda_regions)
        check_free(name, self.shared.regions)

    async def _unregister_cuda(self, name: str) -> None:
        """First the frontends name it no more, then the engine lets go of it."""
        before = self.shared.cuda_regions
        kept = unregister(before, name)
        self._set(replace(self.shared, cuda_regions=kept))
        await self._reached()
        self.memory.close([region for region in before if region not in kept])

    def _set(self, shared: Shared) -> None:
        self.shared = replace(shared, number=self.shared.number + 1)
        self._publish()

    async def everyone_follows(self) -> None:
        """Publish, and return when every frontend goes by it."""
        self._set(self.shared)
        await self._reached()

    async def _reached(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self.shared.number, future))
        self._settle()
        try:
            async with asyncio.timeout(self._follow_timeout_s):
                await future
        except TimeoutError:
            log.warning("a frontend did not follow a change within %.0f s", self._follow_timeout_s)

    def _settle(self) -> None:
        reached = min(self._followed.values(), default=self.shared.number)
        for _, future in (each for each in self._waiting if each[0] <= reached):
            if not future.done():
                future.set_result(None)
        self._waiting = [each for each in self._waiting if not each[1].done()]
