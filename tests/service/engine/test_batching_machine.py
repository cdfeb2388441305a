"""The batcher as a state machine: whatever comes, waits and leaves, nothing is lost or starves."""

from __future__ import annotations

from collections.abc import Hashable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from service.engine.batcher import MAX_OVERTAKINGS, Batcher, Expire, Policy, Run, WaitUntil
from service.engine.company import Room
from service.engine.queues import PATIENCE_S, Waiting
from service.errors import QueueFull

BUCKETS = (1, 2, 4, 8)
TABLES: tuple[dict[int, float], ...] = (
    {},
    {1: 0.01, 2: 0.011, 4: 0.012, 8: 0.013},
    {1: 0.01, 2: 0.02, 4: 0.03, 8: 0.08},
)
MAX_QUEUE = 12
SHAPES: dict[bool, tuple[Hashable, ...]] = {
    False: ("a", "b", "c", "a"),
    True: (Room((1,)), Room((2,)), Room((4,)), Room((1,), "other")),
}


class Batching(RuleBasedStateMachine):
    """One model with one to three instances. `rows[id]` are those of a request that have neither run nor left."""

    runs = Bundle("runs")
    requests = Bundle("requests")

    @initialize(
        delay=st.sampled_from([0.0, 0.02]),
        preferred=st.sampled_from([(), (3, 6)]),
        instances=st.integers(1, 3),
        table=st.sampled_from(TABLES),
        pads=st.booleans(),
    )
    def begin(
        self, delay: float, preferred: tuple[int, ...], instances: int, table: dict[int, float], pads: bool
    ) -> None:
        self.shapes = SHAPES[pads]
        self.policy = Policy(8, BUCKETS, delay, MAX_QUEUE, preferred, instances)
        self.batcher = Batcher(self.policy)
        padded: dict[tuple[int, ...], dict[int, float]] = {
            (size,): {rows: size * spent for rows, spent in table.items()} for size in (1, 2, 4)
        }
        self.batcher.measured(table, padded)
        self.now = 0.0
        self.free = instances
        self.running = 0
        self.waiting: dict[int, Waiting] = {}
        self.rows: dict[int, int] = {}
        self.overtaken: dict[int, int] = {}  # since a request arrived: batches without any of it
        self.next_row: dict[int, int] = {}

    @rule(
        target=requests,
        rows=st.integers(1, 8) | st.integers(9, 40),
        kind=st.integers(0, 3),
        priority=st.sampled_from([0, 0, 1, 2]),
        patience=st.none() | st.sampled_from([0.005, 0.05, 0.5, 5.0]),
        late=st.none() | st.sampled_from([0.01, 0.1]),
    )
    def arrives(self, rows: int, kind: int, priority: int, patience: float | None, late: float | None) -> int:
        number = len(self.next_row)
        deadline = None if patience is None else self.now + patience
        waiting = Waiting(
            rows, self.shapes[kind], self.now, deadline, priority, number, None if late is None else self.now + late
        )
        if rows > 8:
            waiting.divide, waiting.part = lambda start, count: number, 8
        self.next_row[number] = 0
        is_idle = not len(self.batcher) and not self.running
        try:
            self.batcher.add(waiting)
        except QueueFull as error:
            assert not is_idle, "an idle model refuses nothing"
            assert deadline is not None or len(self.batcher) >= MAX_QUEUE, (
                "without a deadline only a full queue refuses"
            )
            assert 0 < error.retry_after_s <= 60  # noqa: PT017 - a machine meets both
        else:
            self.waiting[number], self.rows[number], self.overtaken[number] = waiting, rows, 0
        return number

    @rule(number=consumes(requests))
    def leaves(self, number: int) -> None:
        waiting = self.waiting.pop(number, None)
        if waiting is not None:
            assert self.batcher.cancel(waiting)
            assert not self.batcher.cancel(waiting)

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.1, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=runs, is_busy=st.booleans())
    def an_instance_asks(self, is_busy: bool) -> Run | None:
        if not self.free:
            is_busy = True
        decision = self.batcher.poll(self.now, is_busy=is_busy)
        match decision:
            case Expire(gone):
                for waiting in gone:
                    assert waiting.deadline is not None
                    assert waiting.deadline <= self.now
                    assert self.waiting.pop(waiting.payload) is waiting
            case Run():
                self.check_run(decision, is_busy)
                self.free -= not is_busy
                self.running += 1
                return decision
            case WaitUntil(when):
                assert when > self.now
                assert is_busy or self.policy.max_queue_delay_s, "an idle instance does not wait"
            case None:
                assert is_busy or not self.waiting, "an idle instance does not wait"
        return None

    def check_run(self, run: Run, is_busy: bool) -> None:
        taken = sum(request.rows for request in run.requests)
        assert taken <= run.bucket <= 8
        assert run.bucket in BUCKETS
        assert not is_busy or taken >= self.batcher.latency.largest or run.reason == "idle", (
            "what can grow is not prepared"
        )
        assert len({getattr(request.shape, "rest", request.shape) for request in run.requests}) == 1
        for request in run.requests:
            assert request.deadline is None or request.deadline > self.now
            number = request.payload
            assert self.waiting[number].rows + request.start + request.rows >= self.next_row[number]
            assert request.start == self.next_row[number], "rows run once, in their order"
            self.next_row[number] += request.rows
            if self.next_row[number] == self.rows[number]:
                del self.waiting[number]
        ran = {request.payload for request in run.requests}
        for number in self.waiting:
            self.overtaken[number] = 0 if number in ran else self.overtaken[number] + 1

    @rule(run=consumes(runs), seconds=st.sampled_from([None, 0.001, 0.01, 0.2]))
    def a_batch_ends(self, run: Run | None, seconds: float | None) -> None:
        if run is not None:
            self.batcher.finished(run, seconds)
            self.running -= 1
            self.free = min(self.policy.instances, self.free + 1)

    @invariant()
    def all_are_there(self) -> None:
        if hasattr(self, "batcher"):
            assert len(self.batcher) == len(self.waiting)
            left = sum(self.rows[number] - self.next_row[number] for number in self.waiting)
            assert f"{left} rows" in repr(self.batcher)

    @invariant()
    def nothing_starves(self) -> None:
        """Each of those before it may be passed over MAX_OVERTAKINGS times, and itself."""
        if hasattr(self, "batcher"):
            assert all(self.overtaken[number] <= (MAX_QUEUE + 1) * (MAX_OVERTAKINGS + 1) for number in self.waiting)


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def drain(batcher: Batcher, now: float) -> list[object]:
    """Which request each batch of one row ran, until nothing waits."""
    order = []
    while isinstance(run := batcher.poll(now), Run):
        order.append(run.requests[0].payload)
        batcher.finished(run, None)
    return order


def test_a_low_priority_is_served_under_an_endless_stream_of_high_ones() -> None:
    batcher = Batcher(Policy(1, (1,)))
    low = Waiting(1, "a", 0.0, payload=-1)
    batcher.add(low)
    for number in range(100):
        batcher.add(Waiting(1, "b", 0.001 * number, priority=1, payload=number))
        batcher.add(Waiting(1, "b", 0.001 * number, priority=1, payload=number))
        assert isinstance(batcher.poll(0.001 * number), Run)
        if low.is_gone:
            break
    assert number == MAX_OVERTAKINGS


def test_one_without_a_deadline_is_overtaken_only_by_what_came_soon_after() -> None:
    batcher = Batcher(Policy(1, (1,)))
    batcher.add(Waiting(1, "a", 0.0, payload="patient"))
    batcher.add(Waiting(1, "a", 0.5, deadline=0.9, payload="hasty"))
    batcher.add(Waiting(1, "a", 0.5, deadline=60.0, payload="calm"))
    batcher.add(Waiting(1, "a", PATIENCE_S, deadline=PATIENCE_S + 0.1, payload="too late to overtake"))
    assert drain(batcher, 0.8) == ["hasty", "patient", "too late to overtake", "calm"]
