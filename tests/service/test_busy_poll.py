"""Who looks for what comes, for how long, and that a loop which does so sleeps afterwards."""

from __future__ import annotations

import asyncio

import pytest

from service.busy_poll import AUTO, AUTO_US, Vigil, choose_busy_poll_us
from service.looking_loop import LookingLoop
from service.settings import SettingsError, load_settings
from service.startup import choose_by_machine


@pytest.mark.parametrize(
    ("cores", "frontends", "devices", "looks"),
    [
        (2, 1, ("cuda:0",), False),
        (7, 1, ("cuda:0",), False),
        (8, 3, ("cuda:0",), False),
        (8, 2, ("cuda:0",), True),
        (16, 5, ("cuda:0",), True),
        (16, 6, ("cuda:0", "cuda:1"), False),
        (64, 1, ("cpu",), False),
    ],
)
def test_by_itself_it_looks_where_cores_are_plenty_and_compute_nothing(
    cores: int, frontends: int, devices: tuple[str, ...], looks: bool
) -> None:
    assert choose_busy_poll_us(AUTO, cores, frontends, devices) == (AUTO_US if looks else 0)
    assert choose_busy_poll_us("50", cores, frontends, devices) == 50


@pytest.mark.parametrize("given", ["never", "-1", "1.5", "1000001", "²"])
def test_what_is_no_time_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="busy_poll_us must be auto, or microseconds from 0 to 1000000"):
        load_settings(busy_poll_us=given)


def test_the_parent_decides_for_all() -> None:
    assert choose_by_machine(load_settings(busy_poll_us="70"), ("cpu",)).busy_poll_us == "70"
    assert choose_by_machine(load_settings(), ("cpu",)).busy_poll_us == "0"


def test_looking_pays_while_what_is_waited_for_comes_in_time() -> None:
    vigil = Vigil(100)
    assert vigil.begin(1000) == 1100
    vigil.end(1101)
    assert vigil.begin(2000) == 0
    vigil.end(2100)
    assert vigil.begin(3000) == 3100
    vigil.drop()
    vigil.end(9000)
    assert vigil.begin(10_000) == 10_100, "what was dropped says nothing"


class Watched:
    """A loop that looks, with a clock which goes on by 1 µs each time that it is read."""

    def __init__(self, limit_us: int) -> None:
        self.now = 1_000_000
        self.looking = LookingLoop(limit_us, self._tick)

    def _tick(self) -> int:
        self.now += 1000
        return self.now

    async def turns(self) -> int:
        """Those that it made for this, until it would sleep."""
        before = -1
        began = self.looking.turns
        while before != self.looking.turns:
            before = self.looking.turns
            await asyncio.sleep(0)
        return self.looking.turns - began


def test_a_loop_looks_for_so_long_then_sleeps() -> None:
    async def run() -> None:
        watched = Watched(limit_us=50)
        assert await watched.turns() == 0, "before anything has come"
        watched.looking.asked(1)
        assert 45 <= await watched.turns() <= 51
        assert await watched.turns() == 0
        watched.looking.answered(0)
        assert 45 <= await watched.turns() <= 51
        assert await watched.turns() == 0

    asyncio.run(run())


def test_a_loop_does_not_look_for_what_comes_late_or_while_several_are_under_way() -> None:
    async def run() -> None:
        watched = Watched(limit_us=50)
        watched.looking.asked(1)
        watched.looking.asked(2)
        assert await watched.turns() <= 1
        watched.looking.answered(1)
        assert await watched.turns() == 0
        watched.looking.answered(0)
        await watched.turns()
        watched.now += 1_000_000
        watched.looking.asked(1)
        watched.looking.answered(0)
        assert await watched.turns() <= 1, "the last request came late"
        watched.looking.asked(1)
        watched.looking.answered(0)
        assert await watched.turns() > 10, "this one did not"

    asyncio.run(run())


def test_other_callbacks_go_on_while_a_loop_looks() -> None:
    async def run() -> None:
        looking = LookingLoop(1_000_000)
        looking.asked(1)
        done = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.001, done.set_result, None)
        await asyncio.wait_for(done, 10)
        assert looking.turns > 1
        looking.asked(2)

    asyncio.run(run())
