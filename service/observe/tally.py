"""Counts together what ends together: the answers that a frontend gives in one turn of its loop, and in many of them.

Of each only the moment is kept at which its request came; all of a turn end with it, for they leave together. Within
`lag_s` they are counted, all with the same few additions, so that a request pays for no more than a moment put
down. Knows no request. `template.py` adds to tallies, which the recorder of `recorders.py` makes; `engine/client.py`
says when it has read.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable

import numpy as np

from service.observe import metrics
from service.observe.adding import ALONE_LAG_S, Histogram, series
from service.observe.store import Store

MANY = 4096  # answers are not left uncounted, that no turn of the loop takes long because of them


class Tally:
    """Answers of one kind that were given with success: `tally.add(arrived)` for each, with the moment it was asked."""

    __slots__ = (
        *(
            "_arrived",
            "_encode",
            "_is_open",
            "_last",
            "_latency",
            "_open",
            "_requests",
            "_row_count",
            "_rows",
            "_turns",
        ),
        "uncounted",
    )

    def __init__(self, store: Store, labels: tuple[str, str, str], rows: int, open_up: Callable[[Tally], None]) -> None:
        model, version, _ = labels
        self._requests = series(store, metrics.REQUESTS, *labels, "success")
        self._latency = Histogram(series(store, metrics.LATENCY, *labels))
        self._rows = series(store, metrics.ROWS_ANSWERED, *labels)
        self._last = series(store, metrics.LAST, model, version)
        self._encode = Histogram(series(store, metrics.PHASE, model, version, "encode"))
        self._row_count = rows
        self._open = open_up
        self._is_open = False
        self._arrived = array("d")  # numbers, not objects: what is freed at once is what the next request takes again
        self._turns = array("d")  # of each: when it was over, seconds to write an answer, how many
        self.uncounted = 0  # answers of turns that are over

    @property
    def given(self) -> int:
        """How many were added in this turn."""
        return len(self._arrived) - self.uncounted

    def add(self, arrived: float) -> None:
        """One that arrived then is answered now."""
        self._arrived.append(arrived)
        if not self._is_open:
            self._is_open = True
            self._open(self)

    def end(self, now: float, spent_s: float, others: int = 0) -> int:
        """The turn is over: to write its answers and so many others took this long. Returns how many it had."""
        added = len(self._arrived)
        given = added - self.uncounted
        self._turns.extend((now, spent_s / (given + others), given))
        self.uncounted = added
        self._is_open = False
        return given

    def count(self, milliseconds: int) -> None:
        """Count those of all turns, the last of which was over then, since 1970. No turn is under way."""
        arrived, count = np.frombuffer(self._arrived), self.uncounted
        ended, each_s, given = np.frombuffer(self._turns).reshape(-1, 3).T
        often = given.astype(np.int64)
        self._arrived, self._turns, self.uncounted = array("d"), array("d"), 0
        self._requests.words[self._requests.at] += count
        self._rows.words[self._rows.at] += count * self._row_count
        self._last.words[self._last.at] = milliseconds
        self._encode.add_often((each_s * 1e9).astype(np.int64), often)
        self._latency.add_array(((np.repeat(ended, often) - arrived) * 1e9).astype(np.int64))


class Tallies:
    """All of one frontend, from the one thread of its loop."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.lag_s = ALONE_LAG_S
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

    def turned(self) -> None:
        """All answers of a turn have been added. The time since the first is shared by all: in it they were written."""
        given = self._given
        if not given:
            return
        now = self._clock()
        if len(given) == 1:  # they are of one kind: few calls, for nothing is in the caches where one client is alone
            self._ended_count += given[0].end(now, now - self._began)
        else:
            count = sum([tally.given for tally in given])
            for tally in given:
                tally.end(now, now - self._began, count - tally.given)
            self._ended_count += count
        given.clear()
        if self._ended_count >= MANY:
            self._count()

    def settle(self) -> None:
        """Count all that was added."""
        self.turned()
        self._count()

    def _count(self) -> None:
        if not self._ended:
            return
        milliseconds = int(time.time() * 1000)
        for tally in self._ended:
            tally.count(milliseconds)
        self._ended.clear()
        self._ended_count = 0

    def _open(self, tally: Tally) -> None:
        if not self._given:
            self._began = self._clock()
            if not self._has_timer:
                self._has_timer = True
                asyncio.get_running_loop().call_later(self.lag_s, self._expire)
        self._given.append(tally)
        if not tally.uncounted:
            self._ended.append(tally)

    def _expire(self) -> None:
        self._has_timer = False
        self.settle()
