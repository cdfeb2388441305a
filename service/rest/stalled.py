"""Ends the connections of clients that stop amid a request, or amid the answer they read: else they stay for ever.

Knows of a connection how far it has come, nothing of HTTP. All are looked at now and then, so that a request costs
nothing for it. `patient.py` says how far, `frontend.py` has it look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

LOOKS = 4  # within the limit: what stops is ended so much of it late at most
Progress = tuple[str | int, ...]


class Connection(Protocol):
    """What is looked at."""

    @property
    def progress(self) -> Progress | None: ...
    def give_up(self) -> None: ...


class Stalled:
    """`look` gives those up whose progress was the same for `limit_s` seconds, as far as it was seen."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._seen: dict[Connection, tuple[Progress, float]] = {}  # since when

    def __repr__(self) -> str:
        return f"<Stalled {len(self._seen)} seen>"

    def look(self, connections: Collection[Connection]) -> None:
        """At all there are."""
        now = self._clock()
        before, self._seen = self._seen, {}
        for connection in connections:
            progress = connection.progress
            if progress is None:
                continue
            last, since = before.get(connection, (None, now))
            if last != progress:
                since = now
            if now - since < self._limit_s:
                self._seen[connection] = progress, since
            else:
                connection.give_up()


async def end_stalled(limit_s: float, connections: Callable[[], Collection[Any]]) -> None:
    """Look until cancelled; 0: never."""
    stalled = Stalled(limit_s)
    while limit_s:
        await asyncio.sleep(limit_s / LOOKS)
        stalled.look(list(connections()))
