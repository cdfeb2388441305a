"""What is kept of a deadline for the way back."""

from service.rpc.margin import LARGEST_SHARE, MOST_S, Margin


def test_it_widens_with_what_is_late_and_narrows_again() -> None:
    margin = Margin()
    assert margin.within(0.2) == 0.2
    margin.missed()
    first = 0.2 - margin.within(0.2)
    assert 0.001 < first < 0.01
    margin.missed()
    assert 0.2 - margin.within(0.2) > first
    for _ in range(2000):
        margin.kept()
    assert 0.2 - margin.within(0.2) < 0.0001


def test_it_leaves_most_of_any_deadline() -> None:
    margin = Margin()
    for _ in range(100):
        margin.missed()
    assert margin.seconds == MOST_S
    assert margin.within(0.008) == 0.008 * (1 - LARGEST_SHARE)
    assert margin.within(10.0) == 10.0 - MOST_S
