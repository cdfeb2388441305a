"""Where an engine counts its batches: what is told is put down, and added up by the thread that ends a batch, now and
then, or a little later by a thread for what nobody follows.

Knows no request and no model but by name. `engine/models.py` tells, `batches.py` adds up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from service.observe import metrics
from service.observe.adding import LAG_S, series
from service.observe.batches import Batch, Batches
from service.observe.store import Series, Store

T = TypeVar("T")

PAUSE_S = 0.4 * LAG_S  # between two visits: what is put down now is counted at the second, with time to spare
QUIET = 50  # visits without anything new, then no more: to wake the thread costs more than to have it look


class Visited(Protocol):
    """Who puts something down; both may be called by any thread."""

    def visit(self) -> bool:
        """Count what nobody else has; False: there is nothing to come back to."""

    def count(self) -> None:
        """Count everything."""


class Later:
    """A thread that visits those who have put something down, every `PAUSE_S` while they say so."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._lock = threading.Lock()
        self._visited: list[Visited] = []
        self._has_any = threading.Event()
        threading.Thread(target=self._run, name="counts", daemon=True).start()

    def visit(self, who: Visited) -> None:
        """Come back to it until it says no. From any thread."""
        with self._lock:
            self._visited.append(who)
            self._has_any.set()

    def finish(self) -> None:
        """Count everything now: the process is about to end."""
        with self._lock:
            visited = tuple(self._visited)
        for each in visited:
            each.count()

    def _run(self) -> None:
        while True:
            self._has_any.wait()
            self._sleep(PAUSE_S)
            with self._lock:
                visited = tuple(self._visited)
            over = [each for each in visited if not each.visit()]
            if over:
                self._leave(over)

    def _leave(self, over: Sequence[Visited]) -> None:
        with self._lock:
            for each in over:
                self._visited.remove(each)  # once: it may have asked again
            if not self._visited:
                self._has_any.clear()


class BatchRecorder:
    """What a served version reports about its batches and its queue, from any thread.

    Without `later` everything is counted when it is told.
    """

    def __init__(self, store: Store, model: str, version: str, later: Later | None = None) -> None:
        self._store = store
        self._lock = store.lock
        self._key = model, version
        self._later = later
        self._batches = Batches(store, model, version)
        self._padded: list[Series] = []  # where sizes are
        self._depth = series(store, metrics.QUEUE_DEPTH, *self._key)
        self._running = series(store, metrics.RUNNING, *self._key)
        # Adding at the end and taking from the front are single operations, which need no lock.
        self._taken: deque[tuple[str, int]] = deque()
        self._ran: deque[Batch] = deque()
        self._ended: deque[int] = deque()
        self._length: Callable[[], int] | None = None
        self._counted_at = 0.0
        self._is_visited = False
        self._quiet = 0

    def follow(self, length: Callable[[], int]) -> None:
        """The queue's length, which is looked at while something goes on."""
        self._length = length

    def dispatched(self, reason: str, requests: int) -> None:
        """So many requests were taken from the queue to run together: full, idle or delay says why now."""
        self._taken.append((reason, requests))
        if not self._is_visited:
            self._tell()

    def queued(self) -> None:
        """Some wait in the queue, though nothing may be running."""
        if not self._is_visited:
            self._tell()

    def batch(
        self, queue_ns: Sequence[int], phases_ns: tuple[int, int, int, int], rows: int, bucket: int, parts: int = 0
    ) -> None:
        """One batch has run: nanoseconds each request waited, nanoseconds of each phase, its rows and its bucket.

        `parts` are of requests that had parts in batches before: their wait was counted with the first.
        """
        self._ran.append((queue_ns, phases_ns, rows, bucket, parts))
        if not self._is_visited:
            self._tell()

    def settled(self, requests: int) -> None:
        """They have been answered, one way or another."""
        self._ended.append(requests)
        if self._later is None or time.monotonic() - self._counted_at > PAUSE_S:
            self.count()

    def count(self) -> None:
        """Add up all that was put down."""
        self._counted_at = time.monotonic()
        with self._lock:
            ended = sum(_taken_from(self._ended))  # first: what has ended was taken before
            taken, ran = _taken_from(self._taken), _taken_from(self._ran)
            self._running.words[self._running.at] += sum([requests for _, requests in taken]) - ended
            self._batches.take([reason for reason, _ in taken])
            if ran:
                self._batches.count(ran)
        self._look()

    def visit(self) -> bool:
        """Count what no batch that ended has; False where it is quiet, and nothing waits or runs."""
        if self._taken or self._ran or self._ended:
            self._quiet = 0
            if time.monotonic() - self._counted_at > PAUSE_S:
                self.count()
            return True
        self._look()
        self._quiet += 1
        if self._quiet < QUIET or self._depth.get() or self._running.get():
            return True
        with self._lock:
            self._is_visited = bool(self._taken or self._ran)
            return self._is_visited

    def _tell(self) -> None:
        """Something was put down that nobody comes for."""
        if self._later is None:
            self.count()
            return
        with self._lock:
            if self._is_visited:
                return
            self._is_visited, self._quiet = True, 0
        self._later.visit(self)

    def _look(self) -> None:
        if self._length is not None:
            self._depth.set(self._length())

    def padded(self, own: int, padding: int) -> None:
        """The sizes of inputs were padded: elements of requests in the batch, and of padding."""
        if not self._padded:
            self._padded = [series(self._store, metrics.PADDED, *self._key, kind) for kind in ("request", "padding")]
        with self._lock:
            for found, elements in zip(self._padded, (own, padding), strict=True):
                found.words[found.at] += elements

    def depth(self, requests: int) -> None:
        """How many requests wait now, where the queue is not followed."""
        self._depth.words[self._depth.at] = requests

    def loaded(self, device: str, memory_bytes: int, queue_limit: int) -> None:
        """Loading it took so much memory of its device; so many requests may wait for it."""
        series(self._store, metrics.QUEUE_LIMIT, *self._key).set(queue_limit)
        if memory_bytes > 0:
            series(self._store, metrics.MODEL_MEMORY, *self._key, device).set(memory_bytes)


def _taken_from(told: deque[T]) -> list[T]:
    return [told.popleft() for _ in range(len(told))]
