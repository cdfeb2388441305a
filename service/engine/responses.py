"""Answers on their way from an engine's connection to whoever waits for them: for one, or for several to one request.

Knows no sockets: `client.py` hands out what comes.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from service.engine.messages import Result
from service.errors import ServiceError

Answer = tuple[Result, list[memoryview]]


class Waiter(Protocol):
    """What an answer is handed to: as to a future, but it is told at once, and once."""

    def done(self) -> bool: ...
    def set_result(self, answer: Answer, /) -> None: ...
    def set_exception(self, error: ServiceError, /) -> None: ...


TELL_EVERY = 8  # responses that were taken: half of what an engine sends ahead (steps.messages.WINDOW)


class Stream:
    """The responses of one request that have come and have yet to be taken."""

    def __init__(self) -> None:
        self.untold = 0
        self.is_over = False
        self._waiting: asyncio.Queue[Answer | ServiceError] = asyncio.Queue()

    def put(self, answer: Answer | ServiceError) -> None:
        self._waiting.put_nowait(answer)

    async def next(self) -> Answer:
        """Wait for the next. Raises the error that ends them."""
        answer = await self._waiting.get()
        if isinstance(answer, ServiceError):
            self.is_over = True
            raise answer
        self.is_over = answer[0].is_final
        self.untold += 1
        return answer

    def told(self) -> int:
        """How many were taken since it was last asked."""
        count, self.untold = self.untold, 0
        return count
