"""An engine hangs when what was watched says so, and never because the watcher slept."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from service.engine import blackbox
from service.engine.blackbox import FROZEN, BlackBox, Running, Sight
from service.engine.watch import BREATH_S, LOAD_FREEZE_S, MAX_STEP_S, SHORTEST_FREEZE_S, Watch
from service.engine.watchdog import Watchdog

BOUND_S = 10.0
BATCH = Running(8, 1000, int(BOUND_S * 1e9), (1, 2, 3))
STEP_S = 0.25


def sight(*running: Running, beat: int = 0, loading: int = 0) -> Sight:
    return Sight(beat, loading, 0, running)


def watched(*sights: Sight, freeze_s: float = 20.0) -> tuple[Watch, float]:
    """A watch that saw these, and two heartbeats before, a step between them."""
    watch, now = Watch(freeze_s), 0.0
    for each in (sight(beat=-3), sight(beat=-2), *sights):
        assert watch.look(now, each) is None
        now += STEP_S
    return watch, now


def look_for(watch: Watch, now: float, seconds: float, *running: Running, beats: bool, loading: int = 0) -> object:
    """What it says while it sees the same for so long."""
    for number in range(int(seconds / STEP_S)):
        hang = watch.look(now, sight(*running, beat=number + 1 if beats else 1, loading=loading))
        if hang is not None:
            return hang
        now += STEP_S
    return None


def test_a_batch_that_runs_longer_than_it_may_hangs() -> None:
    watch, now = watched(sight(BATCH))
    assert look_for(watch, now, BOUND_S - 1, BATCH, beats=True) is None
    watch, now = watched(sight(BATCH))
    hang = look_for(watch, now, BOUND_S + 1, BATCH, beats=True)
    assert hang is not None
    assert hang.verdict == BATCH.lane  # type: ignore[attr-defined]
    assert "a batch of 3 requests has run for 10" in hang.reason  # type: ignore[attr-defined]


def test_one_batch_after_the_other_is_no_hang() -> None:
    watch, now = watched()
    for number in range(100):
        assert watch.look(now, sight(Running(8, number, BATCH.bound_ns, (1,)), beat=number)) is None
        now += BOUND_S


def test_a_batch_without_a_bound_may_take_as_long_as_it_likes() -> None:
    watch, now = watched()
    assert look_for(watch, now, 1000, Running(8, 1, 0, (1,)), beats=True) is None


def test_a_process_without_a_heartbeat_hangs() -> None:
    watch, now = watched()
    hang = look_for(watch, now, 30, beats=False)
    assert hang is not None
    assert hang.verdict == FROZEN  # type: ignore[attr-defined]
    watch, now = watched(freeze_s=0.0)
    assert look_for(watch, now, 1000, beats=False) is None


def test_while_a_model_is_loaded_the_process_may_hold_its_breath_and_its_batches_with_it() -> None:
    watch, now = watched(sight(BATCH))
    assert look_for(watch, now, LOAD_FREEZE_S - 1, BATCH, beats=False, loading=5) is None
    watch, now = watched(sight(BATCH))
    assert look_for(watch, now, BOUND_S + 1, BATCH, beats=True, loading=5) is not None, (
        "this one breathes: its batch hangs"
    )
    watch, now = watched()
    assert look_for(watch, now, LOAD_FREEZE_S + 1, beats=False, loading=5) is not None, "not for ever"


def test_a_process_that_has_yet_to_begin_is_not_frozen() -> None:
    watch, now = Watch(20.0), 0.0
    for _ in range(1000):
        assert watch.look(now, sight(beat=1)) is None
        now += STEP_S


def test_a_bound_on_batches_tighter_than_any_heartbeat_is_none_on_the_process() -> None:
    watch, now = watched(freeze_s=0.1)
    assert look_for(watch, now, SHORTEST_FREEZE_S - 1, beats=False) is None


@given(st.lists(st.floats(0, 100_000), max_size=50))
def test_a_parent_that_sleeps_blames_nobody_for_it(gaps: list[float]) -> None:
    """However long it slept, it takes as many looks as the bound has seconds before it blames."""
    watch, now = watched(sight(BATCH))
    for gap in gaps[: int(BOUND_S / MAX_STEP_S) - 1]:
        now += gap
        assert watch.look(now, sight(BATCH)) is None


@given(st.lists(st.tuples(st.floats(0.01, BREATH_S / 2), st.booleans()), max_size=200))
def test_whatever_begins_and_ends_in_time_is_left_alone(steps: list[tuple[float, bool]]) -> None:
    watch, now, began = Watch(20.0), 0.0, 0.0
    for beat, (step, ends) in enumerate(steps):
        now += step
        if ends or now - began > BOUND_S - BREATH_S:
            began = now
        assert watch.look(now, sight(Running(8, int(began * 1e9), BATCH.bound_ns, (1,)), beat=beat)) is None


def test_the_watchdog_ends_an_engine_once_and_notes_why(tmp_path: Path) -> None:
    killed: list[int] = []
    watchdog = Watchdog(20.0, killed.append)
    watchdog.began(3, tmp_path / "engine-3-1.sock")
    path = blackbox.beside(tmp_path / "engine-3-1.sock")
    lane = BlackBox(path).lane(2)
    lane.bound(0.5)
    lane.begin([11])
    for now in range(5):
        if not killed:
            watchdog.look(3, float(now))
    assert killed == [3]
    assert blackbox.read(path).verdict == lane.at
    for generation in range(2, 6):
        watchdog.began(3, tmp_path / f"engine-3-{generation}.sock")
    assert not path.exists(), "boxes that nobody asks for any more are removed"
    watchdog.ended(3)
