"""Counts together what ends together: the answers that a frontend gives in one turn of its loop, and in a few of them.

Of each only the moment is kept at which its request came; all of a turn end with it, for they leave together. A few are
counted at once where nothing is under way any more, many within `LAG_S`, all with the same few additions. Knows no
request. `template.py` adds to tallies, which the recorder of `recorders.py` makes; `engine/client.py` says when it has
read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np

from service.observe import metrics
from service.observe.adding import FEW, LAG_S, VECTOR, Histogram, series
from service.observe.store import Store

MANY = 1024  # answers are not left uncounted, that no turn of the loop takes long because of them


class Tally:
    """Answers of one kind that were given with success: `tally.add(arrived)` for each, with the moment it was asked."""

    __slots__ = (
        *("_arrived", "_encode", "_is_open", "_last", "_latency", "_open", "_requests", "_row_count", "_rows"),
        *("_turns", "uncounted"),
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
        self._arrived: list[float] = []
        self._turns: list[tuple[float, float, int]] = []  # when each was over, seconds to write an answer, how many
        self.uncounted = 0  # answers of turns that are over

    @property
    def given(self) -> int:
        """How many were added in this turn."""
        return len(self._arrived) - self.uncounted

    def add(self, arrived: float) -> None:
        """One that arrived then is answered now."""
        if not self._is_open:
            self._is_open = True
            self._open(self)
        self._arrived.append(arrived)

    def end(self, now: float, each_s: float) -> None:
        """The turn is over: to write each of its answers took so many seconds."""
        self._turns.append((now, each_s, self.given))
        self.uncounted = len(self._arrived)
        self._is_open = False

    def count_few(self, now: float, began: float) -> None:
        """The only turn is over, which began then: count its answers, without all that is for many."""
        arrived, count = self._arrived, len(self._arrived)
        self._is_open = False
        self._requests.words[self._requests.at] += count
        self._rows.words[self._rows.at] += count * self._row_count
        self._last.words[self._last.at] = int(time.time() * 1000)
        self._encode.add(int((now - began) / count * 1e9), count)
        for moment in arrived:
            self._latency.add(int((now - moment) * 1e9))
        arrived.clear()

    def count(self, milliseconds: int) -> None:
        """Count those of all turns, the last of which was over then, since 1970. No turn is under way."""
        arrived, turns, count = self._arrived, self._turns, self.uncounted
        self._arrived, self._turns, self.uncounted = [], [], 0
        self._requests.words[self._requests.at] += count
        self._rows.words[self._rows.at] += count * self._row_count
        self._last.words[self._last.at] = milliseconds
        for _, each_s, given in turns:
            self._encode.add(int(each_s * 1e9), given)
        if count >= VECTOR:
            ended = np.repeat([turn[0] for turn in turns], [turn[2] for turn in turns])
            self._latency.add_array(((ended - np.array(arrived)) * 1e9).astype(np.int64))
        else:
            ends = [now for now, _, given in turns for _ in range(given)]
            self._latency.add_all([int((now - each) * 1e9) for now, each in zip(ends, arrived, strict=True)])


class Tallies:
    """All of one frontend, from the one thread of its loop."""

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

    def turned(self, is_idle: bool) -> None:
        """All answers of a turn have been added: is nothing under way any more?"""
        if is_idle and len(self._given) == 1 and not self._ended and self._given[0].given < FEW:
            self._given.pop().count_few(self._clock(), self._began)
            return
        if self._given:
            self._end_turn()
        if (is_idle and self._ended_count < FEW) or self._ended_count >= MANY:
            self._count()

    def settle(self) -> None:
        """Count all that was added."""
        if self._given:
            self._end_turn()
        self._count()

    def _end_turn(self) -> None:
        """The time since the first of its answers is shared by all: in it they were written."""
        now, count = self._clock(), sum([tally.given for tally in self._given])
        each_s = (now - self._began) / count
        for tally in self._given:
            if not tally.uncounted:
                self._ended.append(tally)
            tally.end(now, each_s)
        self._given.clear()
        self._ended_count += count

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
                asyncio.get_running_loop().call_later(LAG_S, self._expire)
        self._given.append(tally)

    def _expire(self) -> None:
        self._has_timer = False
        self.settle()
