"""How a frontend has engines count now what they have put off, so that who asks for statistics need not wait for it.

Two words between them, and who waits for the second; knows no metric. `client.py` asks, `listener.py` answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import count

from service.engine.messages import Message


class Count(Message, frozen=True):
    """Count everything that has been answered."""

    id: int


class Counted(Message, frozen=True):
    """It has been."""

    id: int


class Counting:
    """Of one engine's connection, by whose `send` it is asked."""

    def __init__(self) -> None:
        self._numbers = count(-1, -1)  # no request has such an id
        self._waited: dict[int, asyncio.Future[None]] = {}

    def __repr__(self) -> str:
        return f"<Counting, {len(self._waited)} wait>"

    def ask(self, send: Callable[[Count], None]) -> asyncio.Future[None]:
        """Done when the engine has counted, or is no more: what it had counted stays."""
        number, future = next(self._numbers), asyncio.get_running_loop().create_future()
        self._waited[number] = future
        send(Count(number))
        return future

    def told(self, word: Counted) -> None:
        """The engine has counted. Nobody may wait for it any more."""
        future = self._waited.pop(word.id, None)
        if future is not None and not future.done():
            future.set_result(None)

    def lost(self) -> None:
        """There is no engine to wait for."""
        for number in tuple(self._waited):
            self.told(Counted(number))


async def all_counted(waited: Iterable[asyncio.Future[None]], limit_s: float) -> None:
    """When all have, or after so many seconds: by then they have without being asked."""
    futures = list(waited)
    if futures:
        _, late = await asyncio.wait(futures, timeout=limit_s)
        for future in late:
            future.cancel()
