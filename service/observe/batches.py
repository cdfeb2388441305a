"""Counts the batches of one model version: at once where a client is alone with it, else several together.

Any thread may call it. `recorders.py` adds batches and says when nothing waits; `Later` is a thread that comes
back to what was put off.
"""

from __future__ import annotations

import operator
import queue
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import chain

from service.observe import metrics
from service.observe.adding import FEW, LAG_S, Histogram, place_all, series
from service.observe.buckets import ROWS
from service.observe.store import Series, Store

PHASES = ("stack", "copy_in", "compute", "copy_out")
PARTS = ("input", "compute", "output")
ALONE = 4  # batches are counted faster one by one
MANY = 256  # batches are not left uncounted, that nobody waits long for the lock


# Nanoseconds that each request waited; nanoseconds of each phase; rows; bucket; how many parts there are of requests
# that had parts in batches before: their wait was counted with the first.
Batch = tuple[Sequence[int], tuple[int, int, int, int], int, int, int]


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
        self._queue = Histogram(series(store, metrics.PHASE, *self._key, "queue"))
        self._phases = [Histogram(series(store, metrics.PHASE, *self._key, phase)) for phase in PHASES]
        self._phases.append(Histogram(series(store, metrics.INPUT, *self._key)))
        self._parts = [series(store, metrics.REQUEST_PHASE_SECONDS, *self._key, part) for part in PARTS]
        self._rows = series(store, metrics.BATCH, *self._key)
        self._padding = series(store, metrics.PADDING, *self._key)
        self._times: dict[int, Series] = {}  # by rows
        self._waiting: list[Batch] = []
        self._request_count = 0
        self.is_undecided = False  # whether there is something that was not put off

    def add(self, batch: Batch) -> None:
        """Count it, now or when `settle` is called."""
        with self._lock:
            self._waiting.append(batch)
            self._request_count += len(batch[0])
            self.is_undecided = len(self._waiting) == 1 or self.is_undecided
            count = len(self._waiting)
        if self._later is None or count >= MANY:
            self.settle()

    def decide(self, *, is_idle: bool) -> None:
        """Count what was added, or put it off. Where nothing waits, what few requests shared is counted now."""
        if is_idle and self._request_count < FEW:
            self.settle()
        elif self.is_undecided and self._later is not None:
            self.is_undecided = False
            self._later.put_off(self.settle)

    def settle(self) -> None:
        """Count all that were added."""
        if not self._waiting:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, []
            self._request_count = 0
            self.is_undecided = False
            self._queue.add_all(list(chain.from_iterable([batch[0] for batch in waiting])))
            if len(waiting) > ALONE:
                self._count_all(waiting)
                return
            for batch in waiting:
                self._count(*batch)

    def _count(
        self, queue_ns: Sequence[int], phases_ns: tuple[int, int, int, int], rows: int, bucket: int, parts: int
    ) -> None:
        stack_ns, copy_in_ns, compute_ns, copy_out_ns = phases_ns
        input_ns, requests = stack_ns + copy_in_ns, len(queue_ns) + parts
        for found, spent in zip(self._phases, (stack_ns, copy_in_ns, compute_ns, copy_out_ns, input_ns), strict=True):
            found.add(spent)
        for part, spent in zip(self._parts, (input_ns, compute_ns, copy_out_ns), strict=True):
            part.words[part.at] += requests * spent
        words, at = self._rows.words, self._rows.at
        words[at] += rows
        words[at + 1 + bisect_left(ROWS.bounds, rows)] += 1
        if bucket > rows:
            self._padding.words[self._padding.at] += bucket - rows
        self._add_times(rows, input_ns, compute_ns, copy_out_ns)

    def _count_all(self, waiting: Sequence[Batch]) -> None:
        """The same for many, metric by metric."""
        stack, copy_in, compute, copy_out = zip(*[batch[1] for batch in waiting], strict=True)
        inputs = list(map(operator.add, stack, copy_in))
        for found, spent in zip(self._phases, (stack, copy_in, compute, copy_out, inputs), strict=True):
            found.add_all(spent)
        requests = [len(batch[0]) + batch[4] for batch in waiting]
        for part, spent in zip(self._parts, (inputs, compute, copy_out), strict=True):
            part.words[part.at] += sum(map(operator.mul, requests, spent))
        rows = [batch[2] for batch in waiting]
        self._rows.words[self._rows.at] += sum(rows)
        place_all(self._rows.words, self._rows.at + 1, sorted(rows), ROWS.bounds)
        self._padding.words[self._padding.at] += sum([batch[3] for batch in waiting]) - sum(rows)
        for each in zip(rows, inputs, compute, copy_out, strict=True):
            self._add_times(*each)

    def _add_times(self, rows: int, input_ns: int, compute_ns: int, copy_out_ns: int) -> None:
        times = self._times.get(rows)
        if times is None:
            times = self._times[rows] = series(self._store, metrics.BATCH_TIMES, *self._key, str(rows))
        words, at = times.words, times.at
        words[at] += 1
        words[at + 1] += input_ns
        words[at + 2] += compute_ns
        words[at + 3] += copy_out_ns
