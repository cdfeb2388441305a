"""When the next request is sent: at the end of the last one (closed loop), or when its time has come (open loop).

Drives slots, notes in a book what became of each request. Knows no protocol and waits for nothing: `process.py` runs
one pacer per level, and wakes an open loop when its next request is due.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from service.bench.outcomes import TIMED_OUT
from service.bench.records import Book
from service.bench.slots import Slot

Clock = Callable[[], int]


class ClosedLoop:
    """Every slot always has a request under way."""

    def __init__(self, slots: Sequence[Slot], book: Book, clock: Clock = time.monotonic_ns) -> None:
        self._slots = slots
        self._book = book
        self._clock = clock
        self._is_running = False

    def begin(self) -> None:
        self._is_running = True
        for slot in self._slots:
            self.opened(slot)

    def stop(self) -> None:
        """Send no more; what is under way may end."""
        self._is_running = False

    @property
    def is_idle(self) -> bool:
        return not any(slot.is_busy for slot in self._slots)

    def expire(self, now_ns: int, timeout_ns: int) -> None:
        """Give up what waits longer than that."""
        for slot in self._slots:
            if slot.is_busy and now_ns - slot.begun_ns > timeout_ns:
                slot.abort(TIMED_OUT)

    def watermark_ns(self, now_ns: int) -> int:
        return now_ns  # what counts is the end of a request

    def answered(self, slot: Slot, outcome: int) -> None:
        now_ns = self._clock()
        self._book.note(slot.begun_ns, now_ns - slot.begun_ns, 0, outcome)
        if self._is_running and slot.is_open:
            self._send(slot, now_ns)

    def opened(self, slot: Slot) -> None:
        if self._is_running and slot.is_open and not slot.is_busy:
            self._send(slot, self._clock())

    def _send(self, slot: Slot, now_ns: int) -> None:
        slot.begun_ns = now_ns
        slot.send()


class OpenLoop:
    """Requests begin when `arrivals` says, whatever became of the earlier ones. Where every slot is busy they wait
    here, and their latency counts from the moment they were meant to begin."""

    def __init__(
        self, slots: Sequence[Slot], book: Book, arrivals: Iterator[int], clock: Clock = time.monotonic_ns
    ) -> None:
        self._book = book
        self._clock = clock
        self._arrivals = arrivals
        self._next_ns = next(arrivals)
        self._waiting: deque[int] = deque()
        self._free: dict[Slot, None] = dict.fromkeys(slots)  # a set that gives back what came last: its cache is warm
        self._flying: dict[Slot, int] = {}  # in the order of their beginnings
        self._is_running = True

    def stop(self) -> None:
        """No more arrivals; what has arrived is still sent and awaited."""
        self._is_running = False

    def release(self) -> int:
        """Send all that is due; the moment when the next request is."""
        now_ns = self._clock()
        while self._is_running and self._next_ns <= now_ns:
            if slot := self._free_slot():
                self._send(slot, self._next_ns)
            else:
                self._waiting.append(self._next_ns)
            self._next_ns = next(self._arrivals)
        return self._next_ns

    @property
    def is_idle(self) -> bool:
        return not self._flying and not self._waiting

    def expire(self, now_ns: int, timeout_ns: int) -> None:
        while self._waiting and now_ns - self._waiting[0] > timeout_ns:  # first: they must not take a freed slot
            begun_ns = self._waiting.popleft()
            self._book.note(begun_ns, now_ns - begun_ns, now_ns - begun_ns, TIMED_OUT)
        for slot in [slot for slot, begun_ns in self._flying.items() if now_ns - begun_ns > timeout_ns]:
            slot.abort(TIMED_OUT)

    def watermark_ns(self, now_ns: int) -> int:
        """All that was meant to begin before this has ended."""
        oldest = next(iter(self._flying.values()), now_ns)
        waiting = self._waiting[0] if self._waiting else now_ns
        coming = self._next_ns if self._is_running else now_ns
        return min(oldest, waiting, coming, now_ns)

    def answered(self, slot: Slot, outcome: int) -> None:
        now_ns = self._clock()
        begun_ns = self._flying.pop(slot)
        self._book.note(begun_ns, now_ns - begun_ns, slot.lag_ns, outcome)
        if slot.is_open:
            self.opened(slot)

    def opened(self, slot: Slot) -> None:
        if slot.is_busy:
            return  # with a call that its old connection still carries
        if self._waiting:
            self._send(slot, self._waiting.popleft())
        else:
            self._free[slot] = None

    def _free_slot(self) -> Slot | None:
        while self._free:
            slot, _ = self._free.popitem()
            if slot.is_open:  # else it lost its connection while it was idle, and will tell when it is back
                return slot
        return None

    def _send(self, slot: Slot, begun_ns: int) -> None:
        self._flying[slot] = begun_ns
        slot.lag_ns = self._clock() - begun_ns
        slot.send()


Pacer = ClosedLoop | OpenLoop
