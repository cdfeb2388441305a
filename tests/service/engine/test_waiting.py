"""What is long is slept through, what is short is waited for awake."""

from service.runtime.waiting import Patience


def test_calls_are_judged_by_the_last_one_of_about_their_size() -> None:
    patience = Patience()
    assert not patience.is_long(150_000), "nothing is known yet"
    patience.took(150_000, 600_000)
    patience.took(19_000_000, 5_200_000)
    assert not patience.is_long(140_000)
    assert patience.is_long(18_000_000)
    patience.took(18_000_000, 900_000)
    assert not patience.is_long(19_000_000)
