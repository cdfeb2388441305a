"""The black box: what the engine writes can be read by another process, while it lives and afterwards."""

from pathlib import Path

import pytest

from service.engine.blackbox import FROZEN, BlackBox, beside, condemn, create, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    box = beside(tmp_path / "engine-0-1.sock")
    create(box)
    return box


def test_an_empty_box_says_that_nothing_runs(path: Path) -> None:
    sight = read(path)
    assert (sight.running, sight.verdict, sight.loading_ns) == ((), 0, 0)


def test_what_runs_is_read_while_it_runs_and_not_afterwards(path: Path) -> None:
    box = BlackBox(path)
    one, other = box.lane(4), box.lane(1)
    one.bound(2.5)
    one.begin([7, 2**54, 9])
    other.begin([5])
    first, second = read(path).running
    assert (first.ids, first.bound_ns, first.lane) == ((7, 2**54, 9), 2_500_000_000, one.at)
    assert (second.ids, second.bound_ns) == ((5,), 0)
    one.begin([8])
    assert read(path).running[0].ids == (8,)
    one.end()
    assert [running.ids for running in read(path).running] == [(5,)]


def test_the_words_of_a_thread_that_ended_are_used_again(path: Path) -> None:
    box = BlackBox(path)
    lane = box.lane(3)
    lane.begin([1])
    box.give_back(lane)
    assert read(path).running == ()
    assert box.lane(4) is lane
    assert box.lane(4) is not lane


def test_a_full_box_grows_and_those_who_write_already_write_on(path: Path) -> None:
    box = BlackBox(path)
    lanes = [box.lane(64) for _ in range(1000)]
    for number, lane in enumerate(lanes):
        lane.begin([number])
    assert [running.ids for running in read(path).running] == [(number,) for number in range(1000)]


def test_more_requests_than_there_are_words_for_are_cut(path: Path) -> None:
    lane = BlackBox(path).lane(2)
    lane.begin([1, 2, 3])
    assert read(path).running[0].ids == (1, 2)


def test_heartbeat_loading_and_the_verdict(path: Path) -> None:
    box = BlackBox(path)
    before = read(path).beat_ns
    box.beat()
    assert read(path).beat_ns > before
    with box.loading():
        assert read(path).loading_ns > 0
    assert read(path).loading_ns == 0
    condemn(path, FROZEN)
    assert read(path).verdict == FROZEN
    assert read(path).beat_ns >= before, "the rest stays as it was"


def test_without_a_file_it_writes_where_nobody_reads() -> None:
    lane = BlackBox().lane(8)
    lane.begin([1, 2])
    lane.end()


def test_where_there_is_no_box(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nothing\.box"):
        read(tmp_path / "nothing.box")
