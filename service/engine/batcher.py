"""Decides which waiting requests run together, and when.

Pure state: no clock, no sockets, no tensors. `models.py` asks `poll(now)` and does what it says.

    batcher.add(Waiting(rows=2, shape=(3, 224, 224), arrived=now))
    batcher.poll(now)      # Run((that request,), bucket=2)
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from service.engine.queues import Queue, Waiting
from service.errors import QueueFull


@dataclass(frozen=True, slots=True)
class Policy:
    """How one model is batched. `max_batch_size` 0: no batch dimension, every request runs alone.

    `max_queue_delay_s` 0 is work-conserving: an idle instance never waits for more requests. `buckets` are the batch
    sizes that run; the last is `max_batch_size`.
    """

    max_batch_size: int
    buckets: tuple[int, ...] = ()
    max_queue_delay_s: float = 0.0
    max_queue_size: int = 1024  # requests


@dataclass(frozen=True, slots=True)
class Run:
    """Run these together, padded to `bucket` rows. `reason` says why now: full, idle, or the delay is over."""

    requests: tuple[Waiting, ...]
    bucket: int
    reason: str = field(default="idle", compare=False)


@dataclass(frozen=True, slots=True)
class Expire:
    """Tell these that their time ran out; they must not run."""

    requests: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing to do before `when` (the clock's seconds), unless a request arrives."""

    when: float


class Batcher:
    """The queue of one model and the decision what to do with it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._queue = Queue()

    def __repr__(self) -> str:
        deadline = self._queue.next_deadline()
        due = f", next deadline {deadline:.3f}" if deadline is not None else ""
        return f"<Batcher {len(self)} waiting, {self._queue.rows} rows{due}>"

    def __len__(self) -> int:
        return self._queue.count

    def add(self, waiting: Waiting) -> None:
        """Let a request wait. Raises QueueFull where too many wait already."""
        if self._queue.count >= self.policy.max_queue_size:
            raise QueueFull(
                f"the queue is full: {self._queue.count} requests wait already (max_queue_size "
                f"{self.policy.max_queue_size}): try again later"
            )
        self._queue.add(waiting)

    def cancel(self, waiting: Waiting) -> bool:
        """Forget a request that still waits; False where it runs or has run."""
        return self._queue.remove(waiting)

    def poll(self, now: float) -> Run | Expire | WaitUntil | None:
        """What to do at `now`; None: wait for a request. Ask again after each answer but WaitUntil and None."""
        expired = self._queue.expire(now)
        if expired:
            return Expire(expired)
        first = self._queue.first()
        if first is None:
            return None
        due = first.arrived + self.policy.max_queue_delay_s
        if now < due and self._queue.rows_behind(first) < self.policy.max_batch_size:
            deadline = self._queue.next_deadline()
            return WaitUntil(due if deadline is None else min(due, deadline))
        requests = self._queue.take(first, self.policy.max_batch_size)
        rows = sum(request.rows for request in requests)
        is_full = 0 < self.policy.max_batch_size <= rows
        return Run(requests, self.bucket(rows), "full" if is_full else "delay" if due > first.arrived else "idle")

    def bucket(self, rows: int) -> int:
        """The smallest batch size that holds `rows` rows."""
        buckets = self.policy.buckets
        return buckets[bisect_left(buckets, rows)] if buckets else rows
