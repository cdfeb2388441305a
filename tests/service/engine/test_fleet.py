"""The fleet tells the truth about what is ready while engines come and go."""

import msgspec

from service.engine.fleet import Fleet
from service.engine.messages import EngineAddress
from service.repository.catalog import Entry, State

KEY = ("m", "1")


def address(slot: int, generation: int = 1) -> EngineAddress:
    return EngineAddress(f"cuda:{slot}", f"/run/{slot}-{generation}", generation)


def entry(state: State = State.LOADING) -> Entry:
    return Entry("m", "1", state)


def running(*devices: str) -> Fleet:
    fleet = Fleet(devices)
    for slot in range(len(devices)):
        fleet.started(slot, address(slot))
    return fleet


def test_a_version_is_loading_until_every_engine_has_it() -> None:
    fleet = running("cuda:0", "cuda:1")
    fleet.loaded(0, KEY)
    assert fleet.follow(entry())[0] is State.LOADING
    fleet.loaded(1, KEY)
    assert fleet.follow(entry()) == (State.READY, "")
    assert fleet.usable(frozenset([KEY])) == (address(0), address(1))


def test_the_only_engine_dies_and_comes_back() -> None:
    fleet = running("cpu")
    fleet.loaded(0, KEY)
    fleet.died(0)
    assert fleet.follow(entry(State.READY)) == (State.LOADING, "the engine is being restarted")
    assert fleet.usable(frozenset()) == ()
    fleet.started(0, address(0, 2))
    assert fleet.follow(entry())[0] is State.LOADING
    fleet.loaded(0, KEY)
    assert fleet.follow(entry())[0] is State.READY
    assert fleet.usable(frozenset([KEY])) == (address(0, 2),)


def test_one_of_two_engines_dies_and_the_other_serves_on() -> None:
    fleet = running("cuda:0", "cuda:1")
    fleet.loaded(0, KEY)
    fleet.loaded(1, KEY)
    ready = msgspec.structs.replace(entry(), state=fleet.follow(entry())[0])
    fleet.died(1)
    assert fleet.follow(ready)[0] is State.READY
    fleet.started(1, address(1, 2))
    assert fleet.follow(ready)[0] is State.READY
    assert fleet.usable(frozenset([KEY])) == (address(0),), "the newcomer must not be asked before it has loaded"


def test_an_engine_that_cannot_load_says_why() -> None:
    fleet = running("cpu")
    fleet.failed(0, KEY, "out of memory")
    assert fleet.follow(entry()) == (State.UNAVAILABLE, "the engine could not load it: out of memory")
