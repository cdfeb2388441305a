"""What is long is slept through until shortly before its end; the GPU's clock is asked now and then."""

from service.runtime.waiting import EARLY_NS, LATE_NS, TIMED_EVERY_NS, Patience

SMALL, LARGE = 150_528, 9_633_792
SHORT_NS, LONG_NS = 700_000, 5_000_000


def learned(size: int, *took: int) -> Patience:
    patience = Patience()
    for each in took:
        patience.timed(size, 0, (0, each, 0))
    return patience


def test_what_is_short_or_unknown_is_waited_for_awake() -> None:
    for patience in (Patience(), learned(SMALL, SHORT_NS), learned(SMALL, SHORT_NS, SHORT_NS)):
        assert patience.nap_ns(SMALL, 0, 0) == 0
        assert not patience.is_woken(SMALL)


def test_what_is_long_is_slept_through_until_shortly_before_its_end() -> None:
    patience = learned(LARGE, LONG_NS, LONG_NS)
    assert not patience.is_woken(LARGE)
    assert patience.nap_ns(LARGE, 100, 100) == LONG_NS - EARLY_NS
    assert patience.nap_ns(LARGE, 100, 100 + LONG_NS) == 0, "it is late already"
    assert patience.nap_ns(SMALL, 100, 100) == 0, "another size"


def test_one_that_was_interrupted_does_not_make_the_next_be_slept_over() -> None:
    patience = learned(LARGE, 3_000_000_000, LONG_NS)
    assert patience.nap_ns(LARGE, 0, 0) == LONG_NS - EARLY_NS
    patience = learned(LARGE, LONG_NS, 3_000_000_000)
    assert patience.nap_ns(LARGE, 0, 0) == LONG_NS - EARLY_NS
    patience = learned(LARGE, 3_000_000_000)
    assert (patience.nap_ns(LARGE, 0, 0), patience.is_woken(LARGE)) == (0, True), "one alone says too little"


def test_a_call_behind_another_begins_when_that_has_landed() -> None:
    patience = learned(LARGE, LONG_NS, LONG_NS)
    patience.landed(LARGE, 0, LONG_NS)
    assert patience.nap_ns(LARGE, 100, LONG_NS) == LONG_NS - EARLY_NS


def test_rows_that_are_brought_while_another_computes_take_no_time_of_their_own() -> None:
    patience = Patience()
    for _ in range(2):
        patience.timed(LARGE, 0, (3_000_000, LONG_NS, 100))
    assert patience.nap_ns(LARGE, 0, 0) == 3_000_000 + LONG_NS + 100 - EARLY_NS, "nothing ran before it"
    ended = 10_000_000
    patience.landed(LARGE, 0, ended)
    assert patience.nap_ns(LARGE, ended - 4_000_000, ended) == LONG_NS + 100 - EARLY_NS, "they are there"
    assert patience.nap_ns(LARGE, ended - 1_000_000, ended) == 2_000_000 + LONG_NS + 100 - EARLY_NS, "not all of them"


def test_one_that_was_slept_over_does_not_make_the_next_be() -> None:
    patience = learned(LARGE, LONG_NS, LONG_NS)
    patience.landed(LARGE, 0, LONG_NS + 900_000, is_seen=False)
    assert patience.nap_ns(LARGE, 100, LONG_NS + 900_000) == LONG_NS - EARLY_NS - 900_000
    patience.landed(LARGE, LONG_NS, 2 * LONG_NS + 900_000, is_seen=True)
    assert patience.nap_ns(LARGE, 100, 2 * LONG_NS + 900_000) == LONG_NS - EARLY_NS, "what was seen is so"


def test_where_the_end_cannot_be_foreseen_one_is_woken_until_it_can_again() -> None:
    patience = learned(LARGE, LONG_NS, LONG_NS)
    late = LONG_NS + LATE_NS + 1
    patience.landed(LARGE, 0, late)
    assert patience.is_woken(LARGE)
    patience.landed(LARGE, late, late + LONG_NS)
    assert not patience.is_woken(LARGE)


def test_how_long_one_slept_is_not_taken_for_what_it_took() -> None:
    patience = learned(LARGE, LONG_NS, LONG_NS)
    for turn in range(5):
        patience.landed(LARGE, turn * 10 * LONG_NS, (turn + 1) * 10 * LONG_NS)
    assert patience.nap_ns(LARGE, 50 * LONG_NS, 50 * LONG_NS) == LONG_NS - EARLY_NS


def test_calls_are_timed_now_and_then_and_the_others_told_what_those_took() -> None:
    patience = Patience()
    assert patience.is_timed(SMALL, 0)
    assert patience.phases(SMALL) == (0, 0, 0)
    patience.timed(SMALL, 0, (10, 700, 5))
    assert not patience.is_timed(SMALL, TIMED_EVERY_NS - 1)
    assert patience.is_timed(LARGE, 1), "of each size"
    assert patience.is_timed(SMALL, TIMED_EVERY_NS)
    assert patience.phases(SMALL) == (10, 700, 5)


def test_of_many_sizes_not_all_are_remembered() -> None:
    patience = Patience()
    for size in range(5000):
        patience.timed(size, 0, (1, 1, 1))
    assert sum(patience.phases(size) != (0, 0, 0) for size in range(5000)) <= 256
