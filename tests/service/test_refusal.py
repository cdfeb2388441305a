"""For how long, and for which requests, a refusal stands for others."""

from __future__ import annotations

from service.errors import QueueFull, ServiceError
from service.refusal import MOST_S, Refused

NOW = 1000.0


def full(retry_after_s: float | None = None) -> QueueFull:
    error = QueueFull("the queue is full")
    if retry_after_s is not None:
        error.retry_after_s = retry_after_s
    return error


def test_a_long_queue_refuses_what_comes_in_the_next_milliseconds() -> None:
    refused = Refused(full(0.4), None, NOW)
    assert refused.covers(None, NOW)
    assert refused.covers(NOW + 0.001, NOW + MOST_S - 0.001)
    assert not refused.covers(None, NOW + MOST_S)


def test_a_queue_that_is_done_sooner_is_asked_sooner_so_that_no_engine_is_idle() -> None:
    refused = Refused(full(0.001), None, NOW)
    assert refused.covers(None, NOW + 0.0004)
    assert not refused.covers(None, NOW + 0.0006)


def test_one_of_unknown_length_is_always_asked() -> None:
    assert not Refused(full(), None, NOW).covers(None, NOW)
    assert not Refused(full(), NOW + 0.1, NOW).covers(NOW + 0.1, NOW)


def test_what_was_refused_for_its_deadline_says_nothing_of_those_that_have_longer() -> None:
    refused = Refused(full(0.02), NOW + 0.1, NOW)  # it would have come 20 ms late
    assert refused.covers(NOW + 0.1, NOW + 0.001)
    assert refused.covers(NOW + 0.105, NOW + 0.001)
    assert not refused.covers(NOW + 0.12, NOW + 0.001)
    assert not refused.covers(None, NOW + 0.001)
    assert not refused.covers(NOW + 0.1, NOW + MOST_S)


def test_it_is_told_again_in_the_same_words() -> None:
    error: ServiceError = Refused(full(0.4), None, NOW).again()
    assert isinstance(error, QueueFull)
    assert (str(error), error.retry_after_s) == ("the queue is full", 0.4)
