"""Adds what several batches of one model version tell to its words, by few operations for all of them.

Knows neither threads nor the time: `batch_recorder.py` keeps what is told until it is added here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from service.observe import metrics
from service.observe.adding import Histogram, add_to_each, series
from service.observe.buckets import ROWS
from service.observe.store import Series, Store

PHASES = ("stack", "copy_in", "compute", "copy_out")
PARTS = ("input", "compute", "output")
ALONE = 6  # batches are counted faster one by one

# Nanoseconds that each request waited; nanoseconds of each phase; rows; bucket; how many parts there are of requests
# that had parts in batches before: their wait was counted with the first.
Batch = tuple[Sequence[int], tuple[int, int, int, int], int, int, int]


class Batches:
    """The words of one version's batches. Whoever adds holds the store's lock."""

    def __init__(self, store: Store, model: str, version: str) -> None:
        self._store = store
        self._key = model, version
        self._queue = Histogram(series(store, metrics.PHASE, *self._key, "queue"))
        self._phases = [Histogram(series(store, metrics.PHASE, *self._key, phase)) for phase in PHASES]
        self._phases.append(Histogram(series(store, metrics.INPUT, *self._key)))
        self._parts = [series(store, metrics.REQUEST_PHASE_SECONDS, *self._key, part) for part in PARTS]
        self._rows = series(store, metrics.BATCH, *self._key)
        self._padding = series(store, metrics.PADDING, *self._key)
        self._taken: dict[str, Series] = {}  # by reason
        self._times: dict[int, Series] = {}  # by rows

    def take(self, reasons: Sequence[str]) -> None:
        """Batches were taken from the queue, for these reasons."""
        for reason, count in Counter(reasons).items():
            taken = self._taken.get(reason)
            if taken is None:
                taken = self._taken[reason] = series(self._store, metrics.DISPATCHES, *self._key, reason)
            taken.words[taken.at] += count

    def count(self, batches: Sequence[Batch]) -> None:
        """Batches have run."""
        self._queue.add_array(np.fromiter(chain.from_iterable([batch[0] for batch in batches]), np.int64))
        if len(batches) > ALONE:
            self._count_all(batches)
            return
        for batch in batches:
            self._count(*batch)

    def _count(
        self, queue_ns: Sequence[int], phases_ns: tuple[int, int, int, int], rows: int, bucket: int, parts: int
    ) -> None:
        stack_ns, copy_in_ns, compute_ns, copy_out_ns = phases_ns
        input_ns, requests = stack_ns + copy_in_ns, len(queue_ns) + parts
        for found, spent in zip(self._phases, (*phases_ns, input_ns), strict=True):
            found.add(spent)
        for part, spent in zip(self._parts, (input_ns, compute_ns, copy_out_ns), strict=True):
            part.words[part.at] += requests * spent
        words, at = self._rows.words, self._rows.at
        words[at] += rows
        words[at + 1 + bisect_left(ROWS.bounds, rows)] += 1
        if bucket > rows:
            self._padding.words[self._padding.at] += bucket - rows
        self._add_times(rows, 1, input_ns, compute_ns, copy_out_ns)

    def _count_all(self, batches: Sequence[Batch]) -> None:
        """The same for many, metric by metric."""
        fields = [(*phases, rows, bucket, len(queue) + parts) for queue, phases, rows, bucket, parts in batches]
        told = np.fromiter(chain.from_iterable(fields), np.int64).reshape(-1, len(fields[0])).T
        rows, bucket, requests = told[4:]
        spent = np.vstack((told[:4], told[0] + told[1]))
        add_to_each(self._phases, spent)
        parts_ns = spent[[4, 2, 3]]
        for part, total in zip(self._parts, (parts_ns @ requests).tolist(), strict=True):
            part.words[part.at] += total
        row_sum = int(rows.sum())
        self._rows.words[self._rows.at] += row_sum
        self._padding.words[self._padding.at] += int(bucket.sum()) - row_sum
        words, first = self._rows.words, self._rows.at + 1
        sizes, which = np.unique(rows, return_inverse=True)
        counts = np.bincount(which).tolist()
        sums = [np.bincount(which, each).tolist() for each in parts_ns]  # exact below 2**53 ns
        for size, count, *totals in zip(sizes.tolist(), counts, *sums, strict=True):
            words[first + bisect_left(ROWS.bounds, size)] += count
            self._add_times(size, count, *map(int, totals))

    def _add_times(self, rows: int, count: int, input_ns: int, compute_ns: int, copy_out_ns: int) -> None:
        times = self._times.get(rows)
        if times is None:
            times = self._times[rows] = series(self._store, metrics.BATCH_TIMES, *self._key, str(rows))
        words, at = times.words, times.at
        words[at] += count
        words[at + 1] += input_ns
        words[at + 2] += compute_ns
        words[at + 3] += copy_out_ns
