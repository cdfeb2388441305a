"""The pure parts of putting load on: levels, arrivals, pacers with slots that only pretend."""

import itertools

import numpy as np
import pytest

from service.bench.arrivals import poisson_times_ns
from service.bench.levels import Level, is_loopback, parse_concurrency, parse_rates
from service.bench.outcomes import DISCONNECTED, OK, TIMED_OUT, outcome_text
from service.bench.pacers import ClosedLoop, OpenLoop
from service.bench.records import Book, Records, join
from service.bench.slots import Events


@pytest.mark.parametrize(
    ("text", "values"),
    [("8", (8,)), ("1,8,64", (1, 8, 64)), ("1:64", (1, 2, 4, 8, 16, 32, 64)), ("3:20", (3, 6, 12, 20)), ("5:5", (5,))],
)
def test_concurrency_is_a_number_a_list_or_a_range_that_doubles(text: str, values: tuple[int, ...]) -> None:
    assert parse_concurrency(text) == values


@pytest.mark.parametrize("text", ["", "x", "0", "1:", "8:2", "1,,2", "1:2:3", "20000"])
def test_what_is_no_concurrency_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"concurrency|range"):
        parse_concurrency(text)


def test_rates() -> None:
    assert parse_rates("100,2.5e3") == (100, 2500)
    for text in ("", "fast", "0", "-1", "inf", "nan"):
        with pytest.raises(ValueError, match="rate"):
            parse_rates(text)


def test_the_shares_of_processes_add_up() -> None:
    for level in (Level(7), Level(512, 1000.0)):
        shares = [level.share(index, 3) for index in range(3)]
        assert sum(share.concurrency for share in shares) == level.concurrency
        assert sum(share.rate_per_s for share in shares) == pytest.approx(level.rate_per_s)


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("gpu", False)],
)
def test_what_is_this_machine(host: str, own: bool) -> None:
    assert is_loopback(host) is own


def test_arrivals_are_poisson_and_repeatable() -> None:
    times = list(itertools.islice(poisson_times_ns(1000, seed=3, begin_ns=500), 20_000))
    assert times == list(itertools.islice(poisson_times_ns(1000, seed=3, begin_ns=500), 20_000))
    assert times != list(itertools.islice(poisson_times_ns(1000, seed=4, begin_ns=500), 20_000))
    gaps = np.diff(np.array(times)) / 1e9
    assert times[0] > 500
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of an exponential distribution


class FakeSlot:
    """Answers when the test says."""

    events: Events

    def __init__(self) -> None:
        self.begun_ns = self.lag_ns = self.sent = 0
        self.is_open, self.is_busy = True, False

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    def send(self) -> None:
        assert self.is_open
        assert not self.is_busy
        self.is_busy = True
        self.sent += 1

    def answer(self, outcome: int = OK) -> None:
        self.is_busy = False
        self.events.answered(self, outcome)

    def abort(self, outcome: int) -> None:
        self.answer(outcome)


class FakeClock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def noted(book: Book) -> Records:
    return join([book.take()])


def closed(slots: list[FakeSlot]) -> tuple[ClosedLoop, Book, FakeClock]:
    book, clock = Book(), FakeClock()
    pacer = ClosedLoop(slots, book, clock)
    for slot in slots:
        slot.events = pacer
    pacer.begin()
    return pacer, book, clock


def test_a_closed_loop_sends_the_next_request_when_the_last_is_answered() -> None:
    slots = [FakeSlot(), FakeSlot()]
    pacer, book, clock = closed(slots)
    clock.now_ns = 10
    slots[0].answer()
    clock.now_ns = 15
    slots[0].answer(503)
    assert [slot.sent for slot in slots] == [3, 1]
    records = noted(book)
    assert records.begun.tolist() == [0, 10]
    assert records.latency.tolist() == [10, 5]
    assert records.outcome.tolist() == [OK, 503]
    assert len(noted(book)) == 0
    pacer.stop()
    for slot in slots:
        slot.answer()
    assert pacer.is_idle
    assert [slot.sent for slot in slots] == [3, 1]


def test_a_closed_loop_leaves_a_lost_connection_alone_until_it_is_back() -> None:
    slot = FakeSlot()
    pacer, _, _ = closed([slot])
    slot.is_open = False
    slot.answer(DISCONNECTED)
    assert slot.sent == 1
    slot.is_open = True
    pacer.opened(slot)
    assert slot.sent == 2


def test_what_is_not_answered_in_time_is_given_up() -> None:
    slot = FakeSlot()
    pacer, book, clock = closed([slot])
    clock.now_ns = 101
    pacer.expire(101, timeout_ns=100)
    assert noted(book).outcome.tolist() == [TIMED_OUT]
    assert slot.sent == 2
    pacer.expire(101, timeout_ns=100)
    assert slot.sent == 2


def opened(slots: list[FakeSlot], *times: int) -> tuple[OpenLoop, Book, FakeClock]:
    book, clock = Book(), FakeClock()
    pacer = OpenLoop(slots, book, iter([*times, 10**9]), clock)
    for slot in slots:
        slot.events = pacer
    return pacer, book, clock


def test_an_open_loop_counts_from_the_intended_start() -> None:
    slot = FakeSlot()
    pacer, book, clock = opened([slot], 100, 150, 160)
    assert pacer.release() == 100
    clock.now_ns = 170  # the client overslept
    assert pacer.release() == 10**9
    assert slot.sent == 1
    clock.now_ns = 400
    slot.answer()
    clock.now_ns = 500
    slot.answer()
    records = noted(book)
    assert records.begun.tolist() == [100, 150]
    assert records.latency.tolist() == [300, 350]  # the second waited for the only connection: that counts
    assert records.lag.tolist() == [70, 250]
    assert pacer.watermark_ns(500) == 160
    slot.answer()
    assert pacer.is_idle
    assert pacer.watermark_ns(500) == 500


def test_an_open_loop_gives_up_what_never_got_a_connection() -> None:
    slot = FakeSlot()
    pacer, book, clock = opened([slot], 1, 2)
    clock.now_ns = 50
    pacer.release()
    clock.now_ns = 200
    pacer.stop()
    pacer.expire(200, timeout_ns=100)
    records = noted(book)
    assert sorted(records.begun.tolist()) == [1, 2]
    assert records.outcome.tolist() == [TIMED_OUT, TIMED_OUT]
    assert slot.sent == 1
    assert pacer.is_idle


def test_an_idle_connection_that_was_lost_is_not_used_until_it_is_back() -> None:
    slots = [FakeSlot(), FakeSlot()]
    pacer, _, clock = opened(slots, 1, 2)
    slots[1].is_open = False
    clock.now_ns = 2
    pacer.release()
    assert [slot.sent for slot in slots] == [1, 0]
    slots[1].is_open = True
    pacer.opened(slots[1])
    assert [slot.sent for slot in slots] == [1, 1]


def test_outcomes_have_words() -> None:
    assert outcome_text(503) == "HTTP 503 Service Unavailable"
    assert outcome_text(599) == "HTTP 599"
    assert outcome_text(1014) == "gRPC UNAVAILABLE"
    assert outcome_text(1099) == "gRPC 99"
    assert outcome_text(TIMED_OUT) == "no answer in time"
