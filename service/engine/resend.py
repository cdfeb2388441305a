"""In a frontend: requests that no engine can take just now wait for one, and those whose engine died are run again.

Each waits no longer than its deadline and `timeout_s` allow. Knows no sockets: `client.py` sends, `rerun.py` decides
what becomes of a request.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from msgspec import structs

from service.engine.messages import Infer, Result
from service.engine.rerun import EngineGone, next_retry
from service.errors import DeadlineExceeded, NotLoaded, QueueFull, ServiceError, Unavailable
from service.repository.catalog import Catalog, Entry

FAREWELL_S = 0.05  # before the deadline: the answer that there is none must still arrive
TIMEOUT_S = 30.0  # an engine with large models takes seconds to come back, one that crashes as it starts longer

Answer = tuple[Result, list[memoryview]]
Blobs = Sequence[bytes | bytearray | memoryview]


class Resender:
    """`await resender.infer(message, blobs, error)` goes on where `send(message, blobs)` failed with `error`."""

    def __init__(self, send: Callable[[Infer, Blobs], Awaitable[Answer]]) -> None:
        self.timeout_s = TIMEOUT_S
        self._send = send
        self._catalog = Catalog()
        self._changed = asyncio.Event()
        self._held: Counter[str] = Counter()  # by model: requests that no engine has seen

    def __repr__(self) -> str:
        return f"<Resender {self._held.total()} held>"

    def follow(self, catalog: Catalog) -> None:
        """What is served has changed, and which engines there are: those who wait look again."""
        self._catalog = catalog
        self._changed.set()
        self._changed = asyncio.Event()

    async def infer(self, message: Infer, blobs: Blobs, error: NotLoaded) -> Answer:
        """The answer of another engine. Raises Unavailable where none comes in time, and what `next_retry` raises."""
        until = self._until(message)
        try:
            while True:
                if isinstance(error, EngineGone):
                    message = _after(message, error)
                await self.wait(message, error, until)
                try:
                    async with asyncio.timeout(self._left(message)):
                        return await self._send(message, blobs)
                except TimeoutError:
                    raise DeadlineExceeded(
                        "the request's time ran out while it was run again, after its engine had died"
                    ) from error
                except NotLoaded as again:
                    error = again
        finally:
            del error  # which knows this frame: together they would keep the tensors for a while

    async def wait(self, message: Infer, error: NotLoaded, until: float | None = None) -> None:
        """Return when it is worth to send `message` again, after `error`. Raises as `infer` does."""
        until = self._until(message) if until is None else until
        if isinstance(error, EngineGone) or message.retry:
            await self._wait(message, error, until)
            return
        limit = self._entry(message).batching.max_queue_size
        if self._held[message.model] >= limit:
            raise QueueFull(
                f"{error}; {limit} requests wait for it already (max_queue_size): try again later"
            ) from error
        self._held[message.model] += 1
        try:
            await self._wait(message, error, until)
        finally:
            self._held[message.model] -= 1

    async def _wait(self, message: Infer, error: NotLoaded, until: float) -> None:
        has_looked = not isinstance(error, EngineGone)  # else another engine may be there already
        while has_looked or not self._is_served(message, error):
            has_looked = False
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                raise Unavailable(
                    f"model '{message.model}' had no engine in time: it is being restarted, try again"
                ) from error

    def _is_served(self, message: Infer, error: NotLoaded) -> bool:
        """Whether an engine has it, as far as is known here. Raises Unavailable where none will."""
        entry = self._entry(message)
        if not entry.is_ready and not entry.is_resuming:
            reason = entry.reason or f"it is {entry.state.lower()}"
            raise Unavailable(f"model '{entry.name}' version {entry.version} is not ready: {reason}") from error
        return entry.is_ready

    def _entry(self, message: Infer) -> Entry:
        """Raises Unavailable where the version went away, or takes other requests now."""
        try:
            entry = self._catalog.entry(message.model, message.version)
        except ServiceError as error:
            raise Unavailable(f"model '{message.model}' was unloaded meanwhile") from error
        if entry.contract > message.contract:
            raise Unavailable(
                f"model '{message.model}' version {message.version} has changed while this request waited: try again"
            )
        return entry

    def _until(self, message: Infer) -> float:
        until = time.monotonic() + self.timeout_s
        return until if message.deadline is None else min(until, message.deadline - FAREWELL_S)

    def _left(self, message: Infer) -> float | None:
        return None if message.deadline is None else message.deadline - FAREWELL_S - time.monotonic()


def _after(message: Infer, gone: EngineGone) -> Infer:
    if message.sequence is not None:
        raise Unavailable(
            f"the engine on {gone.aftermath.device} died, and the state of sequence '{message.sequence.id}' with it: "
            "start the sequence again"
        )
    return structs.replace(message, retry=next_retry(message.retry, message.id, gone.aftermath))
