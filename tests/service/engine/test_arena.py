"""Memory that is lent is whoever's views of it there are, and nothing beyond it can be seen."""

import os
import threading

import pytest

from service.engine.arena import Arena, Guest, Loan, make_memory

BYTES = 1 << 20
PART = 1 << 17


@pytest.fixture
def memory() -> tuple[Arena, Guest]:
    file = make_memory(BYTES)
    arena, guest = Arena(file, BYTES), Guest(file, BYTES)
    os.close(file)
    return arena, guest


def test_a_part_is_in_use_while_there_is_a_view_of_a_part_of_it(memory: tuple[Arena, Guest]) -> None:
    arena, _ = memory
    whole = arena.put(bytes(PART))
    assert whole is not None
    some = whole[5:7]
    del whole
    assert arena.taken_bytes == PART
    del some
    assert arena.taken_bytes == 0


def test_the_other_side_sees_what_was_put_and_tells_when_it_looks_away(memory: tuple[Arena, Guest]) -> None:
    arena, guest = memory
    told: list[int] = []
    blob = arena.put(b"abc" * 10_000)
    assert blob is not None
    place = arena.place_of(blob[3:])
    assert place is not None
    loan = Loan(7, told.append)
    views = [guest.view(place, 6, loan), guest.view(place + 6, 3, loan)]
    del loan
    assert [bytes(view) for view in views] == [b"abcabc", b"abc"]
    views.pop()
    assert told == []
    views.clear()
    assert told == [7]


def test_bytes_of_others_have_no_place(memory: tuple[Arena, Guest]) -> None:
    arena, guest = memory
    blob = arena.put(bytes(PART))
    assert blob is not None
    place = arena.place_of(blob)
    assert place is not None
    other = Arena(file := make_memory(BYTES), BYTES)
    os.close(file)
    assert other.place_of(blob) is None
    assert arena.place_of(bytes(blob)) is None
    assert arena.place_of(guest.view(place, PART, Loan(1, lambda _: None))) is None


def test_where_there_is_no_room_nothing_is_lent(memory: tuple[Arena, Guest]) -> None:
    arena, _ = memory
    held = [arena.take(PART) for _ in range(9)]
    assert [each is not None for each in held] == [True] * 8 + [False]
    del held[0]
    assert arena.take(PART) is not None


def test_nothing_is_seen_beyond_the_memory(memory: tuple[Arena, Guest]) -> None:
    _, guest = memory
    with pytest.raises(ValueError, match=f"2 bytes from {BYTES - 1} on end beyond the memory"):
        guest.view(BYTES - 1, 2, Loan(1, lambda _: None))


def test_memory_that_could_be_cut_off_is_refused() -> None:
    file = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(file, BYTES)
    with pytest.raises(ValueError, match="sealed against shrinking"):
        Guest(file, BYTES)
    os.close(file)
    file = make_memory(BYTES)
    with pytest.raises(ValueError, match=f"{BYTES + 1} bytes was announced, {BYTES} are there"):
        Guest(file, BYTES + 1)
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(file, 0)
    os.close(file)
    reader, writer = os.pipe()
    with pytest.raises(ValueError, match="not memory to be shared"):
        Guest(reader, BYTES)
    os.close(reader)
    os.close(writer)


def test_threads_take_and_let_go_as_they_like(memory: tuple[Arena, Guest]) -> None:
    arena, _ = memory

    def work(number: int) -> None:
        for _ in range(300):
            view = arena.put(bytes([number]) * PART)
            if view is not None:
                assert view[0] == view[-1] == number

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert arena.taken_bytes == 0
