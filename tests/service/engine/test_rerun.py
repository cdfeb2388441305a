"""What becomes of accepted requests when engines die: by cases, and as a machine in which engines die at any time."""

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.engine.backoff import FIRST_DELAY_S, LONGEST_DELAY_S, STABLE_AFTER_S, Backoff
from service.engine.blackbox import FROZEN, Running, Sight
from service.engine.rerun import FIRST, RAN, WAITED, Aftermath, look_back, next_retry
from service.errors import ExecutionFailed

ONE, OTHER = Running(8, 1, 0, (1, 2)), Running(16, 1, 0, (3,))


def died(*running: Running, verdict: int = 0) -> Aftermath:
    return look_back("cpu", Sight(1, 0, verdict, running))


@pytest.mark.parametrize("retry", [FIRST, WAITED, RAN])
def test_what_only_waited_is_as_it_was(retry: int) -> None:
    assert next_retry(retry, 9, died(ONE, OTHER)) == max(retry, WAITED)
    assert next_retry(retry, 9, died()) == max(retry, WAITED)


@pytest.mark.parametrize("retry", [FIRST, WAITED])
def test_what_ran_runs_once_more_and_alone(retry: int) -> None:
    assert next_retry(retry, 2, died(ONE, OTHER)) == RAN
    assert next_retry(retry, 3, died(ONE, OTHER, verdict=FROZEN)) == RAN


def test_nobody_runs_a_third_time() -> None:
    with pytest.raises(ExecutionFailed, match="two engines died while they ran this request"):
        next_retry(RAN, 3, died(OTHER))


def test_where_nobody_knows_what_ran_everything_may_have() -> None:
    assert next_retry(FIRST, 1, look_back("cpu", None)) == RAN


def test_of_an_engine_that_was_ended_only_what_hung_is_blamed() -> None:
    aftermath = died(ONE, OTHER, verdict=ONE.lane)
    assert next_retry(FIRST, 1, aftermath) == RAN
    assert next_retry(FIRST, 3, aftermath) == WAITED
    assert next_retry(RAN, 3, aftermath) == RAN, "it was alone all the same, and is so again"


def test_a_request_that_hung_alone_is_not_run_again() -> None:
    with pytest.raises(ExecutionFailed, match="batch_timeout_s"):
        next_retry(FIRST, 3, died(ONE, OTHER, verdict=OTHER.lane))


class Machine(RuleBasedStateMachine):
    """An engine of two instances, whose batches have up to three requests. Some requests end it whenever they run.

    What is promised: a request that is not deadly is answered, whatever the others do, as long as nothing else ends the
    engine twice; a deadly one fails; and none takes more than two engines with it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.deadly: set[int] = set()
        self.waiting: list[tuple[int, int]] = []  # id, retry
        self.suspects: list[int] = []
        self.running: dict[int, list[tuple[int, int]]] = {}  # lane -> its batch
        self.answered: set[int] = set()
        self.failed: set[int] = set()
        self.taken: Counter[int] = Counter()  # engines that died, by the deadly request that ended them
        self.backoff = Backoff()

    @rule(deadly=st.lists(st.booleans(), min_size=1, max_size=6))
    def arrive(self, deadly: list[bool]) -> None:
        for is_deadly in deadly:
            self.number += 1
            self.waiting.append((self.number, FIRST))
            if is_deadly:
                self.deadly.add(self.number)

    @precondition(lambda self: self.waiting and self.is_free(1) and not self.has_suspect)
    @rule(size=st.integers(1, 3))
    def run_batch(self, size: int) -> None:
        self.running[1], self.waiting = self.waiting[:size], self.waiting[size:]

    @precondition(lambda self: self.suspects and self.is_free(2) and not self.running)
    @rule()
    def run_suspect(self) -> None:
        self.running[2] = [(self.suspects.pop(0), RAN)]

    @precondition(lambda self: self.running)
    @rule(lane=st.integers(1, 2))
    def finish(self, lane: int) -> None:
        batch = self.running.get(lane, [])
        guilty = [each for each, _ in batch if each in self.deadly]
        if guilty:
            self.taken.update(guilty[:1])
            self.die(0)
            return
        self.answered.update(each for each, _ in batch)
        self.running.pop(lane, None)

    @precondition(lambda self: self.running)
    @rule(lane=st.integers(1, 2))
    def hang(self, lane: int) -> None:
        """The parent ends the engine for a batch: here only for one in which a request deserves it."""
        if any(each in self.deadly for each, _ in self.running.get(lane, [])):
            self.die(lane)

    @precondition(lambda self: not self.running)
    @rule()
    def die_idle(self) -> None:
        """The engine is ended from outside while nothing runs."""
        self.die(0)

    def die(self, verdict: int) -> None:
        batches = [Running(lane, 1, 0, tuple(each for each, _ in batch)) for lane, batch in self.running.items()]
        aftermath = died(*batches, verdict=verdict)
        lost = [*(each for batch in self.running.values() for each in batch), *self.waiting]
        lost += [(each, RAN) for each in self.suspects]
        self.running, self.waiting, self.suspects = {}, [], []
        for identity, retry in lost:
            try:
                after = next_retry(retry, identity, aftermath)
            except ExecutionFailed:
                self.failed.add(identity)
                continue
            assert after >= retry, "what is known of a request is not forgotten"
            if after == RAN:
                self.suspects.append(identity)
            else:
                self.waiting.append((identity, after))
        assert FIRST_DELAY_S <= self.backoff.after_death(1.0) <= LONGEST_DELAY_S

    def is_free(self, lane: int) -> bool:
        return lane not in self.running

    @property
    def has_suspect(self) -> bool:
        return 2 in self.running

    @invariant()
    def only_the_deadly_fail(self) -> None:
        assert self.failed <= self.deadly
        assert not self.answered & self.deadly

    @invariant()
    def none_is_lost_or_there_twice(self) -> None:
        there = [each for batch in self.running.values() for each, _ in batch]
        there += [each for each, _ in self.waiting] + self.suspects
        ended = self.answered | self.failed
        assert sorted([*there, *ended]) == list(range(1, self.number + 1))

    @invariant()
    def no_request_takes_more_than_two_engines(self) -> None:
        assert all(count <= 2 for count in self.taken.values())

    def teardown(self) -> None:
        """Whatever happened, all come to an end: in as many steps as there are requests."""
        for _ in range(20 * self.number):
            if self.running:
                self.finish(next(iter(self.running)))
            elif self.suspects:
                self.run_suspect()
            elif self.waiting:
                self.run_batch(3)
        assert self.answered | self.failed == set(range(1, self.number + 1))
        assert self.failed == self.deadly


TestMachine = Machine.TestCase


def test_the_delay_after_a_death_grows_to_a_bound_and_a_long_life_ends_it() -> None:
    backoff = Backoff()
    delays = [backoff.after_death(1.0) for _ in range(12)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (FIRST_DELAY_S, LONGEST_DELAY_S)
    assert backoff.after_death(STABLE_AFTER_S) == FIRST_DELAY_S
