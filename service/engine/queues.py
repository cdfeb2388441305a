"""The requests that wait for one model: in order of priority and arrival, by shape, with their deadlines.

Pure state: no clock, no sockets, no tensors. `batcher.py` decides what to take from here.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Waiting:
    """One request. `shape` is what must be equal for two requests to share a batch; `payload` belongs to the caller."""

    rows: int
    shape: Hashable
    arrived: float
    deadline: float | None = None
    priority: int = 0
    payload: Any = None
    is_gone: bool = False  # expired or cancelled: skipped when its turn comes


class Queue:
    """First come, first served among equal priorities; 1 is the highest priority, 0 the default, which comes last.

    Requests are grouped by shape; `heads()` offers the first of each group.
    """

    def __init__(self) -> None:
        self._groups: dict[tuple[int, Hashable], deque[Waiting]] = {}
        self._deadlines: list[tuple[float, int, Waiting]] = []
        self._added = 0
        self.count = 0
        self.rows = 0

    def __len__(self) -> int:
        return self.count

    def add(self, waiting: Waiting) -> None:
        """Put a request at the end of its group."""
        self._added += 1
        self._groups.setdefault(_group(waiting), deque()).append(waiting)
        self.count += 1
        self.rows += waiting.rows
        if waiting.deadline is not None:
            heapq.heappush(self._deadlines, (waiting.deadline, self._added, waiting))

    def remove(self, waiting: Waiting) -> bool:
        """Forget a request that still waits; False where it has left already."""
        if waiting.is_gone:
            return False
        self._leave(waiting)
        self._drop_gone(_group(waiting))
        return True

    def take(self, waiting: Waiting, max_rows: int) -> tuple[Waiting, ...]:
        """`waiting` and those behind it in its group, in order, as long as they fit into `max_rows` rows."""
        key = _group(waiting)
        group, rows = self._groups[key], 0
        taken: list[Waiting] = []
        while group and (not taken or rows + group[0].rows <= max_rows):
            first = group.popleft()
            if first.is_gone:
                continue
            taken.append(first)
            rows += first.rows
            self._leave(first)
        self._drop_gone(key)
        return tuple(taken)

    def expire(self, now: float) -> tuple[Waiting, ...]:
        """Remove and return the requests whose deadline has passed."""
        expired = []
        while self._deadlines and (self._deadlines[0][2].is_gone or self._deadlines[0][0] <= now):
            _, _, waiting = heapq.heappop(self._deadlines)
            if self.remove(waiting):
                expired.append(waiting)
        return tuple(expired)

    def next_deadline(self) -> float | None:
        """When `expire` will next have something to do. Call after `expire`."""
        return self._deadlines[0][0] if self._deadlines else None

    def first(self) -> Waiting | None:
        """The request to serve next: the highest priority, then the longest wait."""
        heads = [group[0] for group in self._groups.values()]
        return min(heads, key=_precedence, default=None)

    def rows_behind(self, waiting: Waiting) -> int:
        """Rows that wait in the group of `waiting`, its own included."""
        return sum(other.rows for other in self._groups[_group(waiting)] if not other.is_gone)

    def _leave(self, waiting: Waiting) -> None:
        waiting.is_gone = True
        self.count -= 1
        self.rows -= waiting.rows

    def _drop_gone(self, key: tuple[int, Hashable]) -> None:
        """A group never starts with a request that has left, and an empty one is forgotten."""
        group = self._groups.get(key)
        while group and group[0].is_gone:
            group.popleft()
        if not group:
            self._groups.pop(key, None)


def _group(waiting: Waiting) -> tuple[int, Hashable]:
    return waiting.priority, waiting.shape


def _precedence(waiting: Waiting) -> tuple[float, float]:
    return waiting.priority or float("inf"), waiting.arrived
