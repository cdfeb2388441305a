"""Counts the batches of one model version: one by one where nothing waits, several at once where more do.

Any thread may call it. `recorders.py` adds batches and says when nothing waits any more; `Later` is a thread that comes
back to what was put off.
"""

from __future__ import annotations

import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

from service.observe import metrics
from service.observe.adding import BOUNDS, LAG_S, place_all, series
from service.observe.buckets import ROWS
from service.observe.store import Series, Store

PHASES = ("stack", "copy_in", "compute", "copy_out")
PARTS = ("input", "compute", "output")
MANY = 64  # batches are not left uncounted, that nobody waits long for the lock


class Batch(NamedTuple):
    """One batch that ran: nanoseconds that each request waited, nanoseconds of each phase, its rows and its bucket.

    `parts` are of requests that had parts in batches before: their wait was counted with the first.
    """

    queue_ns: Sequence[int]
    phases_ns: tuple[int, int, int, int]
    rows: int
    bucket: int
    parts: int = 0


class Later:
    """Calls what is put off, LAG_S later at the latest."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="counts", daemon=True).start()

    def put_off(self, call: Callable[[], None]) -> None:
        """From any thread."""
        self._asked.put(call)

    def _run(self) -> None:
        while True:
            calls = [self._asked.get()]
            self._sleep(LAG_S)
            while not self._asked.empty():
                calls.append(self._asked.get())
            for call in calls:
                call()


class Batches:
    """The words of one version's batches. Without `later` each batch is counted when it is added."""

    def __init__(self, store: Store, model: str, version: str, later: Later | None = None) -> None:
        self._store = store
        self._lock = store.lock
        self._later = later
        self._key = model, version
        self._queue = series(store, metrics.PHASE, *self._key, "queue")
        self._phases = [series(store, metrics.PHASE, *self._key, phase) for phase in PHASES]
        self._phases.append(series(store, metrics.INPUT, *self._key))
        self._parts = [series(store, metrics.REQUEST_PHASE_SECONDS, *self._key, part) for part in PARTS]
        self._rows = series(store, metrics.BATCH, *self._key)
        self._padding = series(store, metrics.PADDING, *self._key)
        self._times: dict[int, Series] = {}  # by rows
        self._waiting: list[Batch] = []

    def add(self, batch: Batch) -> None:
        """Count it, now or when `settle` is called."""
        with self._lock:
            self._waiting.append(batch)
            count = len(self._waiting)
        if self._later is None or count >= MANY:
            self.settle()
        elif count == 1:
            self._later.put_off(self.settle)

    def settle(self) -> None:
        """Count all that were added."""
        if not self._waiting:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, []
            waits = sorted(chain.from_iterable([batch.queue_ns for batch in waiting]))
            self._queue.words[self._queue.at] += sum(waits)
            place_all(self._queue, waits, BOUNDS)
            for batch in waiting:
                self._count(batch)

    def _count(self, batch: Batch) -> None:
        queue_ns, (stack_ns, copy_in_ns, compute_ns, copy_out_ns), rows, bucket, parts = batch
        input_ns, requests = stack_ns + copy_in_ns, len(queue_ns) + parts
        for found, spent in zip(self._phases, (*batch.phases_ns, input_ns), strict=True):
            words, at = found.words, found.at
            words[at] += spent
            words[at + 1 + bisect_left(BOUNDS, spent)] += 1
        times = self._times.get(rows)
        if times is None:
            times = self._times[rows] = series(self._store, metrics.BATCH_TIMES, *self._key, str(rows))
        words, at = times.words, times.at
        words[at] += 1
        for part, spent in zip(self._parts, (input_ns, compute_ns, copy_out_ns), strict=True):
            at += 1
            words[at] += spent
            part.words[part.at] += requests * spent
        words, at = self._rows.words, self._rows.at
        words[at] += rows
        words[at + 1 + bisect_left(ROWS.bounds, rows)] += 1
        if bucket > rows:
            self._padding.words[self._padding.at] += bucket - rows
