"""The threads of a served model, one for each instance, and the lane of each in the black box.

Knows no batches: what a thread does is given. `models.py` and `sequenced.py` have one of these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from service.engine.blackbox import BlackBox, Lane
from service.repository.catalog import Entry


class Instances:
    """`serve(index)` is what each thread runs, from `start` until it returns; `lanes` has one for each."""

    def __init__(self, entry: Entry, count: int, box: BlackBox | None, serve: Callable[[int], None]) -> None:
        self._entry = entry
        self._box = box or BlackBox()
        self.lanes = [self.lane() for _ in range(count)]
        self._threads = [
            threading.Thread(target=serve, args=(index,), name=f"{entry.name}/{entry.version}#{index}", daemon=True)
            for index in range(count)
        ]

    def __len__(self) -> int:
        return len(self._threads)

    def __repr__(self) -> str:
        return f"<Instances {len(self)} of {self._entry.name}/{self._entry.version}>"

    def lane(self) -> Lane:
        """One more, for a batch that runs beside another; to be given back."""
        lane = self._box.lane(max(1, self._entry.max_batch_size))
        lane.bound(self._entry.batching.batch_timeout_s)
        return lane

    def give_back(self, lane: Lane) -> None:
        """No more batches run in it."""
        self._box.give_back(lane)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all threads have ended."""
        for thread, lane in zip(self._threads, self.lanes, strict=True):
            thread.join()
            self.give_back(lane)
