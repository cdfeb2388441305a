"""What is long is slept through until shortly before its end; the GPU's clock is asked now and then."""

from service.runtime.waiting import EARLY_NS, TIMED_EVERY_NS, Patience

SMALL, LARGE = 150_528, 9_633_792
SHORT_NS, LONG_NS = 700_000, 5_000_000


def learned(size: int, took: int) -> Patience:
    patience = Patience()
    patience.landed(size, 0, took)
    return patience


def test_what_is_short_or_unknown_is_waited_for_awake() -> None:
    assert Patience().nap_ns(SMALL, 0, 0) == 0
    assert learned(SMALL, SHORT_NS).nap_ns(SMALL, SHORT_NS, SHORT_NS) == 0


def test_what_is_long_is_slept_through_until_shortly_before_its_end() -> None:
    patience = learned(LARGE, LONG_NS)
    launched = LONG_NS + 100
    assert patience.nap_ns(LARGE, launched, launched) == LONG_NS - EARLY_NS
    assert patience.nap_ns(LARGE, launched, launched + LONG_NS) == 0, "it is late already"
    assert patience.nap_ns(SMALL, launched, launched) == 0, "another size"


def test_a_call_behind_another_begins_when_that_has_landed() -> None:
    patience = learned(LARGE, LONG_NS)
    patience.landed(LARGE, LONG_NS, 2 * LONG_NS)
    assert patience.nap_ns(LARGE, LONG_NS + 100, 2 * LONG_NS) == LONG_NS - EARLY_NS


def test_where_the_end_cannot_be_foreseen_one_is_woken_until_it_can_again() -> None:
    patience = learned(LARGE, LONG_NS)
    patience.landed(LARGE, LONG_NS, 4 * LONG_NS)
    assert patience.nap_ns(LARGE, 4 * LONG_NS, 4 * LONG_NS) is None
    at = 4 * LONG_NS
    for _ in range(20):
        patience.landed(LARGE, at, at + LONG_NS)
        at += LONG_NS
    assert patience.nap_ns(LARGE, at, at) is not None


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
        patience.landed(size, 0, 1)
        patience.timed(size, 0, (1, 1, 1))
    assert len(patience._sizes) <= 256
    assert len(patience._timed) <= 256
