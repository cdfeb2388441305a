"""Restarts get slower with each death in a row."""

from service.engine.backoff import FIRST_DELAY_S, LONGEST_AFTER_SERVING_S, LONGEST_DELAY_S, STABLE_AFTER_S, Backoff


def test_doubles_up_to_a_bound_and_forgives_a_long_life() -> None:
    backoff = Backoff()
    delays = [backoff.after_death(lived_s=1.0) for _ in range(12)]
    assert delays[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert delays[-1] == LONGEST_DELAY_S
    assert backoff.after_death(lived_s=STABLE_AFTER_S) == FIRST_DELAY_S


def test_what_served_before_it_died_is_back_soon() -> None:
    backoff = Backoff()
    delays = [backoff.after_death(5.0, has_served=True) for _ in range(12)]
    assert delays[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert delays[-1] == LONGEST_AFTER_SERVING_S
    assert backoff.after_death(1.0) == 2 * LONGEST_AFTER_SERVING_S, "and goes on from there where it does not come up"
