"""Counts together what ends together: the answers that a frontend gives in one turn of its loop.

Of each only the moment is kept at which its request came; all end when the turn does, for they leave together. So a few
words are added to for all of them, not for each. Knows no request. `template.py` adds to tallies, which the recorder of
`recorders.py` makes; `engine/client.py` has them settled before the answers leave.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable

from service.observe import metrics
from service.observe.adding import BOUNDS, BOUNDS_S, place_all, series
from service.observe.store import Store


class Tally:
    """Answers of one kind that were given with success: `tally.add(arrived)` for each, with the moment it was asked."""

    __slots__ = ("_arrived", "_encode", "_last", "_latency", "_open", "_requests", "_row_count", "_rows")

    def __init__(self, store: Store, labels: tuple[str, str, str], rows: int, open_up: Callable[[Tally], None]) -> None:
        model, version, _ = labels
        self._requests = series(store, metrics.REQUESTS, *labels, "success")
        self._latency = series(store, metrics.LATENCY, *labels)
        self._rows = series(store, metrics.ROWS_ANSWERED, *labels)
        self._last = series(store, metrics.LAST, model, version)
        self._encode = series(store, metrics.PHASE, model, version, "encode")
        self._row_count = rows
        self._open = open_up
        self._arrived: list[float] = []

    def __len__(self) -> int:
        return len(self._arrived)

    def add(self, arrived: float) -> None:
        """One that arrived then is answered now."""
        if not self._arrived:
            self._open(self)
        self._arrived.append(arrived)

    def settle(self, now: float, each: float, milliseconds: int) -> None:
        """Count them: they end now, which is `milliseconds` since 1970, and to write each took so many seconds."""
        seconds, self._arrived = sorted([now - arrived for arrived in self._arrived]), []
        count, each_ns = len(seconds), int(each * 1e9)
        self._requests.words[self._requests.at] += count
        latency, encode = self._latency, self._encode
        latency.words[latency.at] += int(sum(seconds) * 1e9)
        place_all(latency, seconds, BOUNDS_S)
        self._rows.words[self._rows.at] += count * self._row_count
        encode.words[encode.at] += count * each_ns
        encode.words[encode.at + 1 + bisect_left(BOUNDS, each_ns)] += count
        self._last.words[self._last.at] = milliseconds


class Tallies:
    """All of one frontend, from the one thread of its loop.

    What is added is settled by whoever reads answers, when it has read; at the latest when the loop has its next turn.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._opened: list[Tally] = []
        self._began = 0.0

    def make(self, model: str, version: str, protocol: str, rows: int) -> Tally:
        """For requests of so many rows each."""
        return Tally(self._store, (model, version, protocol), rows, self._open)

    def settle(self) -> None:
        """Count all that was added. The time since the first of them is shared by all: in it they were written."""
        if not self._opened:
            return
        opened, self._opened = self._opened, []
        now, milliseconds = self._clock(), int(time.time() * 1000)
        each = (now - self._began) / sum(map(len, opened))
        for tally in opened:
            tally.settle(now, each, milliseconds)

    def _open(self, tally: Tally) -> None:
        if not self._opened:
            self._began = self._clock()
            asyncio.get_running_loop().call_soon(self.settle)
        self._opened.append(tally)
