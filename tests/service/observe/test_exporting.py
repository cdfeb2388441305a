"""Traces are sent by a thread of their own: bounded, counted, and never in the way."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from service.observe.exporting import Exporter, Limits, limits_of
from service.observe.watching import Asking, Watch

AT_THE_END = Limits(queue=3, batch=100, delay_s=3600)


def watch() -> Watch:
    return Watch(Asking("http", "POST /", "double", "1", 0.0), None, None)


class Collecting:
    """A collector that takes what it is given, fails, or hangs until it is let go."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.outcomes: Counter[str] = Counter()
        self.answer: bool | Exception = True
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def send(self, watches: Sequence[Watch]) -> bool:
        self.taken.append(len(watches))
        self.entered.set()
        self.go_on.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def counted(self, outcome: str, requests: int) -> None:
        self.outcomes[outcome] += requests


def test_what_waits_is_sent_when_it_is_closed() -> None:
    collecting = Collecting()
    exporter = Exporter(collecting.send, collecting.counted, AT_THE_END)
    exporter.put(watch())
    exporter.put(watch())
    exporter.close()
    assert collecting.taken == [2]
    assert collecting.outcomes == {"exported": 2}
    exporter.put(watch())
    assert collecting.outcomes == {"exported": 2, "dropped": 1}


def test_a_full_batch_does_not_wait() -> None:
    collecting = Collecting()
    exporter = Exporter(collecting.send, collecting.counted, Limits(queue=10, batch=2, delay_s=3600))
    exporter.put(watch())
    exporter.put(watch())
    assert collecting.entered.wait(10)
    exporter.close()


def test_a_collector_that_hangs_costs_traces_and_no_time() -> None:
    collecting = Collecting()
    collecting.go_on.clear()
    exporter = Exporter(collecting.send, collecting.counted, Limits(queue=3, batch=1, delay_s=3600))
    exporter.put(watch())
    assert collecting.entered.wait(10)
    for _ in range(5):
        exporter.put(watch())
    assert collecting.outcomes == {"dropped": 2}
    exporter.close(timeout_s=0.01)
    collecting.go_on.set()


@pytest.mark.parametrize("answer", [False, RuntimeError("the SDK gave up")])
def test_a_collector_that_fails_is_told_of_once(answer: bool | Exception, caplog: pytest.LogCaptureFixture) -> None:
    collecting = Collecting()
    collecting.answer = answer
    with caplog.at_level(logging.INFO):
        exporter = Exporter(collecting.send, collecting.counted, Limits(queue=10, batch=1, delay_s=3600))
        for _ in range(3):
            exporter.put(watch())
        exporter.close()
    assert collecting.outcomes == {"failed": 3}
    assert sum("does not take traces" in line for line in caplog.messages) == 1


def test_the_standard_variables_bound_it() -> None:
    given = {"OTEL_BSP_MAX_QUEUE_SIZE": "7", "OTEL_BSP_SCHEDULE_DELAY": "250", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "many"}
    assert limits_of(given) == Limits(7, 512, 0.25)
    assert limits_of({}) == Limits()
