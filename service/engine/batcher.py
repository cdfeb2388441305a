"""Decides which waiting requests run together, and when; refuses at once what would only wait in vain.

Pure state: no clock, no sockets, no tensors. `models.py` asks `poll(now)` and does what it says.

    batcher.add(Waiting(rows=2, shape=(3, 224, 224), arrived=now))
    batcher.poll(now)      # Run((that request,), bucket=2)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from service.engine.company import Latencies, Room, Sizes, choose_company, room_of
from service.engine.latency import Latency
from service.engine.queues import Queue, Waiting
from service.engine.refusals import milliseconds, refusal

MAX_OVERTAKINGS = 16  # batches that may go before the request that waits longest, whatever its priority and shape
CAUTION = 1.1  # a prediction is off by a tenth: what is due by then is not worth the work of the device
SPARE = 2.0  # times its batch's own time before a deadline, no request waits for company any more


@dataclass(frozen=True, slots=True)
class Policy:
    """How one model is batched. `max_batch_size` 0: no batch dimension, every request runs alone.

    `max_queue_delay_s` 0 is work-conserving: an idle instance never waits for more requests. `buckets` are the batch
    sizes that run; the last is `max_batch_size`. A delay ends also as soon as one of the `preferred` sizes is there;
    what waits runs then as the measured times say, or the largest such size where there are none.
    """

    max_batch_size: int
    buckets: tuple[int, ...] = ()
    max_queue_delay_s: float = 0.0
    max_queue_size: int = 1024  # requests
    preferred: tuple[int, ...] = ()
    instances: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """Run these together, padded to `bucket` rows, then say `finished`.

    `reason` is why just now: full, preferred, idle, or the delay is over.
    """

    requests: tuple[Waiting, ...]
    bucket: int
    reason: str = field(default="idle", compare=False)
    number: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Expire:
    """Tell these that their time ran out; they must not run."""

    requests: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing to do before `when` (the clock's seconds), unless a request arrives."""

    when: float


class Batcher:
    """The queue of one model and the decision what to do with it.

    No request starves: its line serves by deadline, and one without is due PATIENCE_S after it came; and where other
    shapes or priorities go before it, the one that waits longest goes next after MAX_OVERTAKINGS batches.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.measured({})
        self._queue = Queue()
        self._running: dict[int, float] = {}  # when each batch should be done
        self._runs = 0
        self._overtakings = 0

    def __repr__(self) -> str:
        deadline = self._queue.next_deadline()
        due = f", next deadline {deadline:.3f}" if deadline is not None else ""
        return f"<Batcher {len(self)} waiting, {self._queue.rows} rows{due}>"

    def __len__(self) -> int:
        return self._queue.count

    @property
    def rows(self) -> int:
        """How many rows wait."""
        return self._queue.rows

    @property
    def is_full(self) -> bool:
        """Whether as many rows wait as the largest batch takes that is worth running."""
        return self._queue.rows >= self.latency.largest and self.policy.max_batch_size > 0

    def measured(
        self, seconds: Mapping[int, float], padded: Mapping[Sizes, Mapping[int, float]] = MappingProxyType({})
    ) -> None:
        """Plan from now on by what batches of each size take, and by what they take padded to these sizes."""
        buckets = self.policy.buckets or tuple(range(1, self.policy.max_batch_size + 1))
        self._latencies = Latencies(buckets, seconds, padded)
        self.latency = self._latencies.plain  # of what is not padded

    def add(self, waiting: Waiting, *, is_accepted: bool = False) -> None:
        """Let a request wait. Raises QueueFull where too many wait already, or where it would miss its deadline.

        What was accepted before, by an engine that died, is not refused.
        """
        if not is_accepted:
            if self._queue.count >= self.policy.max_queue_size:
                raise refusal(
                    f"the queue is full: {self._queue.count} requests wait already (max_queue_size "
                    f"{self.policy.max_queue_size}): try again later",
                    self._backlog(waiting.arrived),
                )
            if waiting.deadline is not None and (latency := self._latencies.of(waiting.shape)).is_known:
                batches = (self._queue.rows + waiting.rows) // latency.largest + 1 + len(self._running)
                at_worst = CAUTION * batches * latency.slowest_s  # where all take what this one takes
                if latency is not self.latency or at_worst > waiting.deadline - waiting.arrived:
                    self._check_in_time(waiting, waiting.arrived, waiting.deadline)
        self._queue.add(waiting)

    def cancel(self, waiting: Waiting) -> bool:
        """Forget a request that still waits; False where it runs or has run."""
        return self._queue.remove(waiting)

    def poll(self, now: float, *, is_busy: bool = False) -> Run | Expire | WaitUntil | None:
        """What to do at `now`; None: wait for a request. Ask again after each answer but WaitUntil and None.

        `is_busy`: the instance computes, and asks for what it may prepare meanwhile: only a full batch, as what comes
        later could not join that one either.
        """
        expired = self._queue.expire(now)
        if expired:
            return Expire(expired)
        when = math.inf
        for head in self._candidates():
            rows, reason, due = self._ready(head, now)
            if rows and (reason == "full" or not is_busy):
                return self._dispatch(head, rows, reason, now)
            when = min(when, due)
        deadline = self._queue.next_deadline()
        when = min(math.inf if is_busy else when, math.inf if deadline is None else deadline)
        return None if when == math.inf else WaitUntil(when)

    def run_alone(self, waiting: Waiting, now: float) -> Run | None:
        """What `poll` would say after `add`, of a request that finds nothing waiting and nothing running.

        None: that is not so, or it may have to wait: `add` it.
        """
        policy, latency = self.policy, self.latency
        if self._queue.count or self._running or policy.max_queue_delay_s or isinstance(waiting.shape, Room):
            return None
        if waiting.rows > policy.max_batch_size > 0 or (waiting.deadline is not None and waiting.deadline <= now):
            return None
        bucket = latency.bucket(waiting.rows)
        self._overtakings = 0
        self._runs += 1
        if latency.is_known:
            self._running[self._runs] = now + latency.seconds(bucket)
        is_full = waiting.rows >= latency.largest and policy.max_batch_size > 0
        return Run((waiting,), bucket, "full" if is_full else "idle", self._runs)

    def finished(self, run: Run, seconds: float | None) -> None:
        """A batch has been answered, in so many seconds where nothing in it failed."""
        self._running.pop(run.number, None)
        if seconds is not None:
            self._latency_of(run.requests).observed(run.bucket, seconds)

    def bucket(self, rows: int, shape: Hashable = None) -> int:
        """The batch size in which `rows` rows run together; `shape` is the room of those that are padded."""
        return self._latencies.of(shape).bucket(rows)

    def _candidates(self) -> list[Waiting]:
        heads = self._queue.heads()
        if self._overtakings < MAX_OVERTAKINGS:
            return heads
        oldest = self._queue.oldest()
        if oldest is None:
            return heads
        self._queue.promote(oldest)
        return [oldest]

    def _ready(self, head: Waiting, now: float) -> tuple[int, str, float]:
        """How many rows of this shape may run now and why; 0: none before the time that comes third."""
        policy, rows = self.policy, self._queue.rows_behind(head)
        latency = self._latencies.of(head.shape) if isinstance(head.shape, Room) else self.latency
        if policy.max_batch_size > 0 and rows >= latency.largest:
            return rows, "full", now
        if not policy.max_queue_delay_s or not policy.max_batch_size:
            return rows, "idle", now
        due = self._queue.since(head) + policy.max_queue_delay_s
        deadline = self._queue.next_deadline()
        if deadline is not None and latency.is_known:
            due = min(due, deadline - SPARE * latency.seconds(rows))
        if now >= due:
            return rows, "delay", now
        preferred = bisect_right(policy.preferred, rows)
        if not preferred:
            return 0, "", due
        return rows if latency.is_known else policy.preferred[preferred - 1], "preferred", now

    def _dispatch(self, head: Waiting, rows: int, reason: str, now: float) -> Run:
        """Take the next batch of the best way to divide `rows` rows."""
        oldest = self._queue.oldest()
        if isinstance(head.shape, Room):
            requests = self._take_padded(head.shape, rows, now)
        else:
            requests = self._queue.take([head.shape], self.latency.first(rows), now)
        latency = self._latency_of(requests)
        self._overtakings = self._overtakings + 1 if self._queue.oldest() is oldest else 0
        taken = sum([request.rows for request in requests])
        if reason == "full" and taken < latency.largest:
            reason = "idle"  # the next one did not fit
        bucket = latency.bucket(taken)
        self._runs += 1
        if latency.is_known:
            busy = len(self._running) >= self.policy.instances
            began = max(now, min(self._running.values())) if busy else now  # it was prepared while others run
            self._running[self._runs] = began + latency.seconds(bucket)
        return Run(requests, bucket, reason, self._runs)

    def _latency_of(self, requests: Sequence[Waiting]) -> Latency:
        """What batches take of these requests."""
        if isinstance(requests[0].shape, Room):
            return self._latencies.of(room_of([request.shape for request in requests]))
        return self.latency

    def _take_padded(self, head: Room, rows: int, now: float) -> tuple[Waiting, ...]:
        """Those of the head's sizes, others where that is sooner for both, and in rows left over whatever fits."""
        shapes: list[Hashable] = [head]
        room, waiting = head, []
        if rows < self._latencies.of(head).largest:
            counts = self._queue.rows_by_shape()
            order = [each.shape for each in self._queue.heads() if isinstance(each.shape, Room) and each.shape != head]
            waiting = [(shape, counts[shape]) for shape in order]
            joined, room, rows = choose_company(head, rows, waiting, self._latencies)
            shapes += joined
        taken = self._queue.take(shapes, self._latencies.of(room).first(rows), now)
        room = room_of([request.shape for request in taken])
        count = sum(request.rows for request in taken)
        left = self._latencies.of(room).bucket(count) - count
        for shape, _ in waiting:
            if left > 0 and shape not in shapes and room.holds(shape):
                more = self._queue.take([shape], left, now, takes_one=False)
                taken, left = (*taken, *more), left - sum(each.rows for each in more)
        return taken

    def _check_in_time(self, waiting: Waiting, now: float, deadline: float) -> None:
        """Raises QueueFull where the answer would come too late.

        What finds an idle instance is always let in: so the times are learned anew even if they were wrong.
        """
        if not self._queue.count and len(self._running) < self.policy.instances:
            return
        ahead = self._queue.rows_before(waiting)
        finish = self._finish(ahead, waiting, now)
        if finish is None:
            return
        expected, allowed, rows = CAUTION * finish, deadline - now, math.ceil(sum(ahead.values()))
        if expected > allowed:
            raise refusal(
                f"the queue is too long for its deadline: {rows} rows go before it, its answer is expected in "
                f"{milliseconds(expected)}, its time ends in {milliseconds(allowed)}: try again later, or allow more",
                expected - allowed,
            )

    def _finish(self, ahead: Mapping[Hashable, float], waiting: Waiting, now: float) -> float | None:
        """In how many seconds `waiting` would be answered, behind what goes before it; None: that is not known."""
        latency = self._latencies.of(waiting.shape)
        alike = sum(rows for shape, rows in ahead.items() if self._latencies.of(shape) is latency)
        whole, rest = divmod(max(0, math.ceil(alike) + waiting.rows - 1), latency.largest)
        others = {s: math.ceil(rows) for s, rows in ahead.items() if self._latencies.of(s) is not latency}
        spent = self._latencies.seconds(others)
        if spent is None:
            return None
        before = self._busy(now) + spent + whole * latency.seconds(latency.largest)
        return before / self.policy.instances + latency.seconds(rest + 1)

    def _backlog(self, now: float) -> float | None:
        """In how many seconds all that waits would have been answered; None: that is not known."""
        spent = self._latencies.seconds(self._queue.rows_by_shape())
        return None if spent is None else (self._busy(now) + spent) / self.policy.instances

    def _busy(self, now: float) -> float:
        """The seconds that instances have yet to work on what they run; none where one is free."""
        if len(self._running) < self.policy.instances:
            return 0.0
        return sum([max(0.0, end - now) for end in self._running.values()])
