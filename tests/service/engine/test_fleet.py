"""The fleet tells the truth about what is ready while engines come and go."""

from service.engine.fleet import MAX_DEATHS, Answers, Fleet
from service.engine.messages import EngineAddress
from service.repository.catalog import State

KEY = ("m", "1")
FIRST, SECOND = (KEY, 1), (KEY, 2)


def address(slot: int, generation: int = 1) -> EngineAddress:
    return EngineAddress(f"cuda:{slot}", f"/run/{slot}-{generation}", generation)


def running(*devices: str) -> Fleet:
    fleet = Fleet(devices)
    for slot in range(len(devices)):
        fleet.started(slot, address(slot))
    return fleet


def test_a_version_is_loading_until_every_engine_has_it() -> None:
    fleet = running("cuda:0", "cuda:1")
    fleet.loaded(0, FIRST)
    assert fleet.follow(KEY, [1], was_ready=False)[0] is State.LOADING
    fleet.loaded(1, FIRST)
    assert fleet.follow(KEY, [1], was_ready=False) == (State.READY, "")
    assert fleet.usable({KEY: 0}) == (address(0), address(1))


def test_the_only_engine_dies_and_comes_back() -> None:
    fleet = running("cpu")
    fleet.loaded(0, FIRST)
    fleet.died(0)
    assert fleet.follow(KEY, [1], was_ready=True) == (State.LOADING, "the engine is being restarted")
    assert fleet.usable({}) == ()
    fleet.started(0, address(0, 2))
    assert fleet.follow(KEY, [1], was_ready=False)[0] is State.LOADING
    fleet.loaded(0, FIRST)
    assert fleet.follow(KEY, [1], was_ready=False)[0] is State.READY
    assert fleet.usable({KEY: 0}) == (address(0, 2),)


def test_one_of_two_engines_dies_and_the_other_serves_on() -> None:
    fleet = running("cuda:0", "cuda:1")
    fleet.loaded(0, FIRST)
    fleet.loaded(1, FIRST)
    fleet.died(1)
    assert fleet.follow(KEY, [1], was_ready=True)[0] is State.READY
    fleet.started(1, address(1, 2))
    assert fleet.follow(KEY, [1], was_ready=True)[0] is State.READY
    assert fleet.usable({KEY: 0}) == (address(0),), "the newcomer must not be asked before it has loaded"


def test_an_engine_that_cannot_load_says_why() -> None:
    fleet = running("cpu")
    fleet.failed(0, FIRST, "out of memory")
    assert fleet.follow(KEY, [1], was_ready=False) == (
        State.UNAVAILABLE,
        "the engine could not load it: out of memory",
    )


def test_what_failed_does_not_count_while_something_else_may_still_load() -> None:
    fleet = running("cpu")
    fleet.failed(0, FIRST, "out of memory")
    assert fleet.follow(KEY, [1, 2], was_ready=False)[0] is State.LOADING
    fleet.loaded(0, SECOND)
    assert fleet.follow(KEY, [1, 2], was_ready=False)[0] is State.READY


def test_a_late_answer_is_not_mistaken_for_the_next_one() -> None:
    fleet = running("cpu")
    fleet.ordered(0, FIRST)
    fleet.ordered(0, SECOND)
    fleet.loaded(0, FIRST)
    assert fleet.answers(SECOND) == Answers((), {}, pending=1)
    fleet.loaded(0, SECOND)
    assert fleet.answers(SECOND) == Answers(("cpu",), {}, pending=0)


def test_each_engine_answers_for_itself() -> None:
    fleet = running("cuda:0", "cuda:1", "cuda:2")
    fleet.loaded(0, SECOND)
    fleet.failed(1, SECOND, "out of memory")
    fleet.loaded(1, FIRST)
    assert fleet.answers(SECOND) == Answers(("cuda:0",), {"cuda:1": "out of memory"}, pending=1)


def test_only_what_an_engine_was_loading_is_blamed_for_its_death() -> None:
    fleet = running("cpu")
    fleet.ordered(0, FIRST)
    fleet.ordered(0, SECOND)
    fleet.loaded(0, FIRST)
    for generation in range(MAX_DEATHS):
        assert not fleet.is_deadly(0, SECOND)
        fleet.died(0)
        fleet.starting(0)
        fleet.ordered(0, FIRST)
        fleet.ordered(0, SECOND)
        fleet.started(0, address(0, generation + 2))
        fleet.loaded(0, FIRST)
    assert fleet.is_deadly(0, SECOND)
    assert not fleet.is_deadly(0, FIRST)
    assert "died 2 times" in fleet.answers(SECOND).refused["cpu"]


def test_an_order_that_reached_nobody_is_not_blamed() -> None:
    fleet = running("cpu")
    for _ in range(MAX_DEATHS):
        fleet.died(0)
        fleet.ordered(0, SECOND)  # while there is no process
        fleet.starting(0)
        fleet.ordered(0, FIRST)
        fleet.ordered(0, SECOND)
    fleet.died(0)
    assert fleet.is_deadly(0, FIRST)
    assert not fleet.is_deadly(0, SECOND)
