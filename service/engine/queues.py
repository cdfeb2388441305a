"""The requests that wait for one model: by priority, then by the earliest deadline, apart by shape.

Pure state: no clock, no sockets, no tensors. `batcher.py` decides what to take from here.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Any

PATIENCE_S = 1.0  # a request without a deadline stands where one would that is due so long after it came
TIDY_EVERY = 1024  # additions: what has left is dropped by then from where it is only marked
FOREMOST = (-1.0, 0.0)

Place = tuple[float, float, int]  # rank, due, number: the order of serving


@dataclass(slots=True, eq=False)
class Waiting:
    """One request. `shape` is what must be equal for two requests to share a batch; `payload` belongs to the caller.

    Where `divide` is given it may run in parts of up to `part` rows: `divide(start, rows)` is the payload of one, whose
    `start` is its first row. From `late` on it stands behind all others of its priority.
    """

    rows: int
    shape: Hashable
    arrived: float
    deadline: float | None = None
    priority: int = 0
    payload: Any = None
    late: float | None = None
    divide: Callable[[int, int], Any] | None = None
    part: int = 0
    start: int = 0
    is_gone: bool = False  # taken, expired or cancelled
    place: Place = field(default=(0.0, 0.0, 0), repr=False)

    @property
    def near(self) -> int:
        """The rows that run when its turn comes; the others have their turn later."""
        return self.rows if self.divide is None else min(self.rows, self.part)


class _Line:
    """Those of one shape, in order. `since` is when the wait of those here began, `rows` and `near` are their sums.

    The first `drawn` are just being taken.
    """

    __slots__ = ("drawn", "near", "rows", "since", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[Place, Waiting]] = []
        self.rows = self.near = self.drawn = 0
        self.since = math.inf


class Queue:
    """1 is the highest priority, 0 the default, which comes last; among equals the earliest deadline is first.

    Those without a deadline are taken as due after PATIENCE_S: only what came less than that after them overtakes them.
    """

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}
        self._timed: list[tuple[float, int, Waiting]] = []  # a heap: when something happens to it by itself
        self._arrivals: deque[tuple[int, Waiting]] = deque()  # by number; one that has another by now stands further on
        self._numbered = 0
        self.count = 0
        self.rows = 0

    def __len__(self) -> int:
        return self.count

    def add(self, waiting: Waiting) -> None:
        """Let a request wait in its place."""
        self._stand(waiting, waiting.arrived)
        self.count += 1
        self.rows += waiting.rows
        if waiting.deadline is not None:
            heapq.heappush(self._timed, (waiting.deadline, self._numbered, waiting))
        if waiting.late is not None:
            heapq.heappush(self._timed, (waiting.late, -self._numbered, waiting))

    def remove(self, waiting: Waiting) -> bool:
        """Forget a request that still waits; False where it has left already."""
        if waiting.is_gone:
            return False
        self._step_out(waiting)
        self._leave(waiting)
        return True

    def take(
        self, shapes: Sequence[Hashable], max_rows: int, now: float = 0.0, *, takes_one: bool = True
    ) -> tuple[Waiting, ...]:
        """Those of these shapes, in order, as long as they fit into `max_rows` rows; the first in any case.

        Without `takes_one` not even that. One that can be divided fills what is left. Its rest stands as if it came
        `now`, so that others have their turn.
        """
        lines = [self._lines[shape] for shape in shapes]
        order = lines[0].waiting if len(lines) == 1 else merge(*(line.waiting for line in lines), key=_place)
        taken: list[Waiting] = []
        rest: Waiting | None = None
        rows = 0
        for _, first in order:
            line = lines[0] if len(lines) == 1 else self._lines[first.shape]
            room, near = max_rows - rows, first.rows if first.divide is None else first.near
            if first.divide is not None and (first.start or first.rows > room) and room > 0:
                taken.append(_cut(first, min(first.rows, room)))
                self.rows -= taken[-1].rows
                rest = first if first.rows else None
                first.is_gone = not first.rows
                self.count -= first.is_gone
            elif first.rows <= room or (takes_one and not taken):
                taken.append(first)
                self._leave(first)
            else:
                break
            rows += taken[-1].rows
            line.rows -= taken[-1].rows
            line.near -= near
            line.drawn += 1
            if rest is not None:
                break
        for shape, line in zip(shapes, lines, strict=True):
            del line.waiting[: line.drawn]
            line.drawn = 0
            if line.waiting:
                line.since = line.waiting[0][1].arrived
            else:
                del self._lines[shape]
        if rest is not None:
            rest.arrived = now
            self._stand(rest, now)
        return tuple(taken)

    def expire(self, now: float) -> tuple[Waiting, ...]:
        """Remove and return the requests whose deadline has passed; those that are late by now stand back."""
        timed = self._timed
        expired = []
        while timed and (timed[0][0] <= now or timed[0][2].is_gone):
            when, _, waiting = heapq.heappop(timed)
            if waiting.is_gone:
                continue
            if waiting.deadline is not None and waiting.deadline <= now:
                self.remove(waiting)
                expired.append(waiting)
            elif when == waiting.late:
                self._move(waiting, (waiting.place[0], math.inf))
        return tuple(expired)

    def next_deadline(self) -> float | None:
        """When `expire` will next have something to do. Call after `expire`."""
        return self._timed[0][0] if self._timed else None

    def heads(self) -> list[Waiting]:
        """The first of each shape, in the order in which they are to be served."""
        if len(self._lines) == 1:
            return [line.waiting[0][1] for line in self._lines.values()]
        return [waiting for _, waiting in sorted((line.waiting[0] for line in self._lines.values()), key=_place)]

    def first(self) -> Waiting | None:
        """The request to serve next."""
        return min((line.waiting[0] for line in self._lines.values()), key=_place, default=(None, None))[1]

    def oldest(self) -> Waiting | None:
        """The request that waits longest."""
        arrivals = self._arrivals
        while arrivals and (arrivals[0][1].is_gone or arrivals[0][1].place[2] != arrivals[0][0]):
            arrivals.popleft()
        return arrivals[0][1] if arrivals else None

    def promote(self, waiting: Waiting) -> None:
        """Let it be the first of all."""
        self._move(waiting, FOREMOST)

    def rows_behind(self, waiting: Waiting) -> int:
        """Rows that wait in the shape of `waiting`, its own included."""
        return self._lines[waiting.shape].rows

    def since(self, waiting: Waiting) -> float:
        """When those of the shape of `waiting` began to wait."""
        return self._lines[waiting.shape].since

    def rows_by_shape(self) -> dict[Hashable, int]:
        """Rows that wait, of each shape."""
        return {shape: line.rows for shape, line in self._lines.items()}

    def rows_before(self, waiting: Waiting) -> dict[Hashable, float]:
        """About how many rows would be served before `waiting`, which is not here yet, of each shape."""
        place = (*_rank_and_due(waiting, waiting.arrived), self._numbered + 1)
        return {
            shape: line.near * bisect_left(line.waiting, place, key=_place) / len(line.waiting)
            for shape, line in self._lines.items()
        }

    def _stand(self, waiting: Waiting, arrived: float) -> None:
        """Take the place that one gets who comes now."""
        self._numbered += 1
        if not self._numbered % TIDY_EVERY:
            self._tidy()
        waiting.place = (*_rank_and_due(waiting, arrived), self._numbered)
        self._arrivals.append((self._numbered, waiting))
        line = self._lines.get(waiting.shape)
        if line is None:
            line = self._lines[waiting.shape] = _Line()
        entry = waiting.place, waiting
        if not line.waiting or line.waiting[-1][0] < waiting.place:
            line.waiting.append(entry)
        else:
            insort(line.waiting, entry, key=_place)
        line.rows += waiting.rows
        line.near += waiting.rows if waiting.divide is None else waiting.near
        if arrived < line.since:
            line.since = arrived

    def _step_out(self, waiting: Waiting) -> None:
        line = self._lines[waiting.shape]
        del line.waiting[bisect_left(line.waiting, waiting.place, key=_place)]
        line.rows -= waiting.rows
        line.near -= waiting.near
        if not line.waiting:
            del self._lines[waiting.shape]

    def _move(self, waiting: Waiting, to: tuple[float, float]) -> None:
        """Change its place in its line; it keeps its number, which is its age."""
        line = self._lines[waiting.shape]
        del line.waiting[bisect_left(line.waiting, waiting.place, key=_place)]
        waiting.place = (*to, waiting.place[2])
        insort(line.waiting, (waiting.place, waiting), key=_place)

    def _leave(self, waiting: Waiting) -> None:
        waiting.is_gone = True
        self.count -= 1
        self.rows -= waiting.rows

    def _tidy(self) -> None:
        """Those that have left are dropped also where others before them stay."""
        self._timed = [entry for entry in self._timed if not entry[2].is_gone]
        heapq.heapify(self._timed)
        self._arrivals = deque((number, each) for number, each in self._arrivals if number == each.place[2])
        while self._arrivals and self._arrivals[0][1].is_gone:
            self._arrivals.popleft()


def _cut(waiting: Waiting, rows: int) -> Waiting:
    """The next `rows` rows of it; it keeps the others."""
    assert waiting.divide is not None, "it can be divided"
    start = waiting.start
    waiting.start, waiting.rows = start + rows, waiting.rows - rows
    payload = waiting.divide(start, rows)
    return Waiting(
        rows, waiting.shape, waiting.arrived, waiting.deadline, waiting.priority, payload, start=start, is_gone=True
    )


def _rank_and_due(waiting: Waiting, arrived: float) -> tuple[float, float]:
    due = arrived + PATIENCE_S
    if waiting.late is not None and waiting.late <= arrived:
        due = math.inf
    elif waiting.deadline is not None and waiting.deadline < due:
        due = waiting.deadline
    return waiting.priority or math.inf, due


def _place(entry: tuple[Place, Waiting]) -> Place:
    return entry[0]
