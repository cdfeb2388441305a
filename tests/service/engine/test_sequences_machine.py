"""Sequences under any order of requests, answers, failures and time: what holds always."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.engine.batcher import WaitUntil
from service.engine.sequences import Sequences
from service.engine.turns import Expire, Refuse, Run, Turn
from service.errors import InvalidInput
from service.tensors import SequencePoint
from tests.service.engine.turns import policy


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


TestMachine = Machine.TestCase
