"""Counts together what ends together: the answers that a frontend gives in one turn of its loop, and in a few of them.

Of each only the moment is kept at which its request came; all of a turn end with it, for they leave together. Words are
added to when nothing is under way any more, or `LAG_S` later: once for many answers. Knows no request. `template.py`
adds to tallies, which the recorder of `recorders.py` makes; `engine/client.py` tells when it has read.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import Callable

from service.observe import metrics
from service.observe.adding import BOUNDS, BOUNDS_S, LAG_S, place_all, series
from service.observe.store import Store

MANY = 1024  # answers are not left uncounted, that no turn of the loop takes long because of them


class Tally:
    """Answers of one kind that were given with success: `tally.add(arrived)` for each, with the moment it was asked."""

    __slots__ = (
        "_arrived",
        "_encode",
        "_last",
        "_latency",
        "_open",
        "_requests",
        "_row_count",
        "_rows",
        "_seconds",
        "_writing",
    )

    def __init__(self, store: Store, labels: tuple[str, str, str], rows: int, open_up: Callable[[Tally], None]) -> None:
        model, version, _ = labels
        self._requests = series(store, metrics.REQUESTS, *labels, "success")
        self._latency = series(store, metrics.LATENCY, *labels)
        self._rows = series(store, metrics.ROWS_ANSWERED, *labels)
        self._last = series(store, metrics.LAST, model, version)
        self._encode = series(store, metrics.PHASE, model, version, "encode")
        self._row_count = rows
        self._open = open_up
        self._arrived: list[float] = []  # those of this turn
        self._seconds: list[float] = []  # those before took so long
        self._writing: list[tuple[float, int]] = []  # seconds that each of so many took to write

    @property
    def given(self) -> int:
        """How many were added in this turn."""
        return len(self._arrived)

    @property
    def is_counted(self) -> bool:
        """Whether nothing of turns before is yet to be counted."""
        return not self._seconds

    def add(self, arrived: float) -> None:
        """One that arrived then is answered now."""
        if not self._arrived:
            self._open(self)
        self._arrived.append(arrived)

    def end(self, now: float, each: float) -> None:
        """The turn is over: to write each answer took so many seconds."""
        self._seconds += [now - arrived for arrived in self._arrived]
        self._writing.append((each, len(self._arrived)))
        self._arrived.clear()

    def count(self, milliseconds: int) -> None:
        """Count those of turns before, the last of which was then, since 1970."""
        seconds, self._seconds = sorted(self._seconds), []
        writing, self._writing = self._writing, []
        self._requests.words[self._requests.at] += len(seconds)
        self._rows.words[self._rows.at] += len(seconds) * self._row_count
        self._last.words[self._last.at] = milliseconds
        self._latency.words[self._latency.at] += int(sum(seconds) * 1e9)
        place_all(self._latency, seconds, BOUNDS_S)
        words, at = self._encode.words, self._encode.at
        for each, count in writing:
            nanoseconds = int(each * 1e9)
            words[at] += count * nanoseconds
            words[at + 1 + bisect_left(BOUNDS, nanoseconds)] += count


class Tallies:
    """All of one frontend, from the one thread of its loop.

    Whoever reads answers says when it has read, and whether nothing is under way any more: then all is counted before
    an answer leaves. Else it is counted within LAG_S.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._given: list[Tally] = []  # with answers of this turn
        self._ended: list[Tally] = []  # with answers that are yet to be counted
        self._ended_count = 0
        self._began = 0.0
        self._has_timer = False

    def make(self, model: str, version: str, protocol: str, rows: int) -> Tally:
        """For requests of so many rows each."""
        return Tally(self._store, (model, version, protocol), rows, self._open)

    def settle(self, is_idle: bool = True) -> None:
        """The turn is over. Where there is nothing else to do, count."""
        if self._given:
            self._end_turn()
        if self._ended and (is_idle or self._ended_count >= MANY):
            milliseconds = int(time.time() * 1000)
            for tally in self._ended:
                tally.count(milliseconds)
            self._ended.clear()
            self._ended_count = 0

    def _end_turn(self) -> None:
        """The time since the first of its answers is shared by all: in it they were written."""
        now, count = self._clock(), 0
        for tally in self._given:
            count += tally.given
        each = (now - self._began) / count
        for tally in self._given:
            if tally.is_counted:
                self._ended.append(tally)
            tally.end(now, each)
        self._given.clear()
        self._ended_count += count

    def _open(self, tally: Tally) -> None:
        if not self._given:
            self._began = self._clock()
            if not self._has_timer:
                self._has_timer = True
                asyncio.get_running_loop().call_later(LAG_S, self._expire)
        self._given.append(tally)

    def _expire(self) -> None:
        self._has_timer = False
        self.settle()
