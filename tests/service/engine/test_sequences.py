"""Sequences run their requests in order, begin when there is room, and end when they are ended or forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.engine.batcher import WaitUntil
from service.engine.sequences import Sequences
from service.engine.slots import Policy
from service.engine.turns import Expire, Refuse, Run, Turn
from service.errors import InvalidInput, QueueFull, Unavailable, UnknownSequence
from service.tensors import SequencePoint

START, END, BOTH = (True, False), (False, True), (True, True)


def policy(**changes: Any) -> Policy:
    values: dict[str, Any] = {"strategy": "oldest", "instances": 1, "rows": 4, "buckets": (1, 2, 4), "max_sequences": 3}
    return Policy(**{**values, **changes})


def turn(identity: int | str, flags: tuple[bool, bool] = (False, False), arrived: float = 0.0, **more: Any) -> Turn:
    return Turn(SequencePoint(identity, *flags), "shape", arrived, **more)


class Bench:
    """Sequences and the time."""

    def __init__(self, **changes: Any) -> None:
        self.sequences = Sequences("m", policy(**changes))
        self.now = 0.0

    def add(self, identity: int | str, flags: tuple[bool, bool] = (False, False), **more: Any) -> Turn:
        added = turn(identity, flags, self.now, **more)
        self.sequences.add(added, self.now)
        return added

    def poll(self, instance: int = 0) -> Any:
        return self.sequences.poll(instance, self.now)

    def run(self, instance: int = 0, *, has_run: bool = True) -> tuple[int | str, ...]:
        """What runs next, and is finished; by sequence."""
        decision = self.poll(instance)
        assert isinstance(decision, Run), decision
        for each in decision.turns:
            self.sequences.finished(each, self.now, has_run=has_run)
        return tuple(each.point.id for each in decision.turns)


def test_a_batch_has_one_request_of_each_sequence_the_oldest_first() -> None:
    bench = Bench()
    for identity in (7, 5, 6):
        bench.add(identity, START)
        bench.now += 1
    bench.add(7)
    assert bench.run() == (7, 5, 6)
    assert bench.run() == (7,)


def test_no_two_requests_of_a_sequence_run_at_once() -> None:
    bench = Bench(instances=2)
    bench.add(1, START)
    bench.add(1)
    first = bench.poll(0)
    assert isinstance(first, Run)
    assert bench.poll(1) is None
    bench.sequences.finished(first.turns[0], bench.now, has_run=True)
    assert bench.run(1) == (1,)


def test_an_unknown_sequence_is_told_how_to_begin() -> None:
    with pytest.raises(UnknownSequence, match="sequence 5 of model 'm' is not known: start it with sequence_start"):
        Bench().add(5)


def test_an_ended_sequence_takes_no_more_until_it_begins_anew() -> None:
    bench = Bench()
    bench.add(5, START)
    bench.add(5, END)
    with pytest.raises(InvalidInput, match="sequence 5 of model 'm' has had its last request: start another"):
        bench.add(5)
    bench.add(5, START)
    assert [bench.run(), bench.run(), bench.run()] == [(5,)] * 3
    bench.add(5)


def test_sequences_beyond_the_most_wait_until_another_ends() -> None:
    bench = Bench(max_sequences=1)
    bench.add("a", START)
    bench.add("b", START)
    bench.add("b")
    assert bench.run() == ("a",)
    assert isinstance(bench.poll(), WaitUntil)
    bench.add("a", END)
    assert bench.run() == ("a",)
    assert [bench.run(), bench.run()] == [("b",), ("b",)]


def test_what_waits_is_bounded_and_expires_also_in_the_backlog() -> None:
    bench = Bench(max_sequences=1, max_queue_size=2)
    bench.add(1, START)
    bench.run()
    late = bench.add(2, START, deadline=3.0)
    bench.add(2)
    with pytest.raises(QueueFull, match="max_queue_size 2"):
        bench.add(1)
    assert bench.poll() == WaitUntil(3.0)
    bench.now = 3.0
    assert bench.poll() == Expire((late,))
    refused = bench.poll()
    assert isinstance(refused, Refuse)
    assert "sequence 2 did not begin" in str(refused.turns[0][1])
    with pytest.raises(UnknownSequence):
        bench.add(2)


def test_an_idle_sequence_is_forgotten_and_told_so() -> None:
    bench = Bench(max_sequences=1, idle_timeout_s=60.0)
    bench.add(1, START)
    bench.run()
    bench.add(2, START)
    assert bench.poll() == WaitUntil(60.0)
    bench.now = 60.0
    assert bench.run() == (2,)
    with pytest.raises(
        UnknownSequence, match=r"was forgotten after 60 s without a request \(idle_timeout_s\): start it"
    ):
        bench.add(1)


def test_a_sequence_is_not_idle_while_it_runs_or_waits() -> None:
    bench = Bench(idle_timeout_s=60.0)
    bench.add(1, START)
    running = bench.poll()
    bench.now = 1000.0
    bench.add(1)
    bench.sequences.finished(running.turns[0], bench.now, has_run=True)
    bench.now = 2000.0
    assert bench.run() == (1,)


def test_a_request_that_failed_changes_nothing_but_where_it_was_to_start() -> None:
    bench = Bench()
    bench.add(1, START)
    bench.run()
    bench.add(1)
    bench.run(has_run=False)
    bench.add(1, END)
    bench.run(has_run=False)
    bench.add(1)
    bench.run()
    bench.add(1, START)
    bench.add(1)
    bench.add(1, START)
    assert bench.run(has_run=False) == (1,)
    refused = bench.poll()
    assert [str(error) for _, error in refused.turns] == [
        "sequence 1 did not begin, as its first request was not run: send that again, with sequence_start"
    ]
    assert bench.run() == (1,)


def test_a_cancelled_start_in_the_middle_ends_the_sequence_there() -> None:
    bench = Bench()
    bench.add(1, START)
    running = bench.poll()
    bench.add(1)
    again = bench.add(1, START)
    bench.add(1)
    bench.sequences.cancel(again, bench.now)
    refused = bench.poll()
    assert len(refused.turns) == 1
    with pytest.raises(InvalidInput, match="did not begin"):
        bench.add(1)
    bench.sequences.finished(running.turns[0], bench.now, has_run=True)
    assert bench.run() == (1,)
    with pytest.raises(UnknownSequence):
        bench.add(1)


def test_direct_keeps_a_sequence_at_its_row_of_its_instance() -> None:
    bench = Bench(strategy="direct", instances=2, rows=2, buckets=(1, 2), max_sequences=100)
    for identity in (1, 2, 3, 4, 5):
        bench.add(identity, START)
    runs = [bench.poll(instance) for instance in (0, 1)]
    assert [[each.point.id for each in run.turns] for run in runs] == [[1, 3], [2, 4]]
    assert [(run.rows, run.slots, run.bucket) for run in runs] == [((0, 1), (0, 1), 2), ((0, 1), (2, 3), 2)]
    for run in runs:
        for each in run.turns:
            bench.sequences.finished(each, 0.0, has_run=True)
    bench.add(4, END)
    run = bench.poll(1)
    assert (run.rows, run.slots, run.bucket) == ((1,), (3,), 2)
    assert bench.poll(0) == WaitUntil(60.0)
    bench.sequences.finished(run.turns[0], 0.0, has_run=True)
    assert bench.poll(1).slots == (3,)


def test_other_shapes_do_not_share_a_batch() -> None:
    bench = Bench()
    for identity, shape in ((1, "a"), (2, "b"), (3, "a")):
        bench.sequences.add(Turn(SequencePoint(identity, True), shape, 0.0), 0.0)
    assert [bench.run(), bench.run()] == [(1, 3), (2,)]


def test_a_delay_waits_for_company_until_every_living_sequence_is_there() -> None:
    bench = Bench(max_queue_delay_s=1.0, rows=2, buckets=(1, 2))
    bench.add(1, START)
    assert bench.run() == (1,)
    bench.add(2, START)
    assert bench.poll() == WaitUntil(1.0)
    bench.add(1)
    assert bench.run() == (2, 1)


def test_when_it_stops_the_backlog_is_refused_and_the_rest_runs() -> None:
    bench = Bench(max_sequences=1)
    bench.add(1, START)
    bench.add(2, START)
    bench.sequences.stop()
    refused = bench.poll()
    assert [(each.point.id, type(error)) for each, error in refused.turns] == [(2, Unavailable)]
    assert bench.run() == (1,)
    assert bench.sequences.waiting == 0


class Machine(RuleBasedStateMachine):
    """Whatever clients send, each request comes to exactly one end, and those of a sequence run in their order."""

    @initialize(strategy=st.sampled_from(["oldest", "direct"]), most=st.integers(1, 4))
    def begin(self, strategy: Any, most: int) -> None:
        self.policy = policy(strategy=strategy, instances=2, rows=2, buckets=(1, 2), max_sequences=most)
        self.sequences = Sequences("m", self.policy)
        self.now = 0.0
        self.open: dict[int, Turn] = {}  # by number, those that have come to no end
        self.running: dict[int, Turn] = {}
        self.order: dict[int, list[int]] = {}  # the numbers of each sequence as they arrived
        self.number = 0

    @rule(identity=st.integers(1, 5), start=st.booleans(), end=st.booleans(), wait=st.integers(1, 80) | st.none())
    def add(self, identity: int, start: bool, end: bool, wait: int | None) -> None:
        deadline = None if wait is None else self.now + wait
        added = Turn(SequencePoint(identity, start, end), "shape", self.now, deadline, payload=self.number)
        try:
            self.sequences.add(added, self.now)
        except InvalidInput:
            assert not start
            return
        self.open[self.number] = added
        self.order.setdefault(identity, []).append(self.number)
        self.number += 1

    @rule(seconds=st.integers(0, 70))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(instance=st.integers(0, 1))
    def poll(self, instance: int) -> None:
        decision = self.sequences.poll(instance, self.now)
        match decision:
            case Run():
                self.check_run(decision, instance)
            case Expire(turns):
                for each in turns:
                    assert each.deadline is not None
                    assert each.deadline <= self.now
                    del self.open[each.payload]
            case Refuse(refused):
                for each, error in refused:
                    assert not each.point.is_start
                    assert isinstance(error, InvalidInput)
                    del self.open[each.payload]
            case WaitUntil(when):
                assert when > self.now

    def check_run(self, run: Run, instance: int) -> None:
        living = {each.point.id for each in self.running.values()}
        assert len({each.point.id for each in run.turns}) == len(run.turns)
        assert len(set(run.slots)) == len(run.slots)
        assert max(run.rows) < run.bucket
        for each, row, slot in zip(run.turns, run.rows, run.slots, strict=True):
            assert each.point.id not in living, "one at a time"
            earlier = [number for number in self.order[int(each.point.id)] if number < each.payload]
            assert not set(earlier) & self.open.keys(), "in order"
            assert each.deadline is None or each.deadline > self.now
            if self.policy.strategy == "direct":
                assert slot == instance * self.policy.rows + row
            self.running[each.payload] = each

    @precondition(lambda self: self.running)
    @rule(data=st.data(), has_run=st.booleans())
    def finish(self, data: st.DataObject, has_run: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.running)))
        finished = self.running.pop(number)
        del self.open[number]
        self.sequences.finished(finished, self.now, has_run=has_run)

    @precondition(lambda self: self.open.keys() - self.running.keys())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.open.keys() - self.running.keys())))
        if self.open[number].is_waiting:
            self.sequences.cancel(self.open.pop(number), self.now)

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "open"):
            waiting = [each for each in self.open.values() if each.is_waiting]
            assert self.sequences.waiting == len(waiting)
            assert self.sequences.living <= self.policy.max_living

    def teardown(self) -> None:
        """Whatever was left comes to its end without new requests: nothing is stuck."""
        if not hasattr(self, "open"):
            return
        for _ in range(10 * self.number + 20):
            for number in list(self.running):
                self.sequences.finished(self.running.pop(number), self.now, has_run=True)
                del self.open[number]
            self.poll(0)
            self.poll(1)
            self.now += 30
        assert not self.open


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
