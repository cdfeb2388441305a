"""The HTTP slot against servers that answer well and badly, over real sockets on this machine; the alarm."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from service.bench.alarm import Alarm
from service.bench.errors import BenchError
from service.bench.levels import Level
from service.bench.messages import Go, Prepare, Report, Target, frame, next_answer, next_order
from service.bench.outcomes import DISCONNECTED, MALFORMED, OK, TIMED_OUT
from service.bench.payloads import http_request
from service.bench.records import Batch
from service.bench.rest_slot import RestSlot
from service.bench.slots import Slot
from service.bench.target import try_once

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
CLOSING = GOOD.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}"


class Heard:
    """The events of one slot, in order."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[int | str] = asyncio.Queue()

    def answered(self, slot: Slot, outcome: int) -> None:
        self.queue.put_nowait(outcome)

    def opened(self, slot: Slot) -> None:
        self.queue.put_nowait("opened")


async def with_server(answers: list[bytes], scene: Callable[[Target], Awaitable[None]]) -> None:
    """Runs `scene` beside a server that gives the next of `answers` to each request; b"" hangs up."""
    script, served = iter(answers), []

    class Serving(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self._transport = transport
            self.gone = asyncio.get_running_loop().create_future()
            served.append(self)

        def connection_lost(self, error: Exception | None) -> None:
            self.gone.set_result(None)

        def data_received(self, data: bytes) -> None:
            answer = next(script)
            if not answer:
                self._transport.close()
            for part in (answer[:20], answer[20:]):
                self._transport.write(part)

    server = await asyncio.get_running_loop().create_server(Serving, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await scene(Target("http", "127.0.0.1", port, http_request("h", "/", b""), 5.0))
    for each in served:
        each._transport.abort()
        await each.gone


def outcomes(answers: list[bytes]) -> list[int | str]:
    """What a slot tells that asks once for each answer, and waits for a lost connection to come back."""
    told: list[int | str] = []

    async def scene(target: Target) -> None:
        heard = Heard()
        slot = RestSlot(target, heard)
        await slot.open()
        for _ in answers:
            slot.send()
            told.append(await heard.queue.get())
            if not slot.is_open:
                told.append(await heard.queue.get())
        await slot.close()

    asyncio.run(with_server(answers, scene))
    return told


def test_answers_are_read_to_their_end_and_the_connection_is_kept() -> None:
    assert outcomes([GOOD, CHUNKED, BUSY, GOOD]) == [OK, OK, 503, OK]


def test_a_connection_that_the_server_wants_closed_is_opened_anew() -> None:
    assert outcomes([CLOSING, GOOD]) == [OK, "opened", OK]


def test_what_is_no_answer_is_told_apart() -> None:
    assert outcomes([b"", GOOD]) == [DISCONNECTED, "opened", OK]
    assert outcomes([b"SSH-2.0-OpenSSH_9.9 and so on\r\n\r\n", GOOD]) == [MALFORMED, "opened", OK]


def test_more_answers_than_questions_are_malformed() -> None:
    assert outcomes([GOOD + GOOD, GOOD]) == [MALFORMED, "opened", OK]


def test_a_request_that_is_given_up_ends_once() -> None:
    told: list[int | str] = []

    async def scene(target: Target) -> None:
        heard = Heard()
        slot = RestSlot(target, heard)
        await slot.open()
        slot.send()
        slot.abort(TIMED_OUT)
        told.append(await heard.queue.get())
        told.append(await heard.queue.get())
        slot.send()
        told.append(await heard.queue.get())
        await slot.close()

    asyncio.run(with_server([GOOD, GOOD, GOOD], scene))
    assert told == [TIMED_OUT, "opened", OK]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (BUSY, "HTTP 503: {}"),
        (b"", "closed the connection"),
        (b"not at all HTTP, whatever it is\r\n\r\n", "not well-formed HTTP"),
        (GOOD.replace(b"{}", b"{]"), "holds no JSON"),
    ],
)
def test_the_first_request_shows_what_does_not_fit(answer: bytes, words: str) -> None:
    async def scene(target: Target) -> None:
        with pytest.raises(BenchError, match=words):
            await try_once(target)

    asyncio.run(with_server([answer], scene))


def test_a_good_first_request_passes() -> None:
    asyncio.run(with_server([GOOD], try_once))


def test_the_alarm_rings_at_its_moment_not_before() -> None:
    async def scene() -> None:
        rang: asyncio.Queue[int] = asyncio.Queue()
        alarm = Alarm(lambda: rang.put_nowait(time.monotonic_ns()))
        for moment in (time.monotonic_ns() + 2_000_000, time.monotonic_ns() - 5):
            alarm.set(moment)
            assert await asyncio.wait_for(rang.get(), 5) >= moment
        alarm.close()

    asyncio.run(scene())


def test_messages_survive_the_way() -> None:
    async def scene() -> None:
        reader = asyncio.StreamReader()
        orders = [Target("grpc", "h", 1, b"\0\1", 2.0), Prepare(Level(3, 4.0), 5), Go(6)]
        answer = Report(1, 2, 3, Batch(b"a", b"b", b"c", b"d"), is_last=True)
        for message in (*orders, answer):
            reader.feed_data(frame(message))
        reader.feed_eof()
        assert [await next_order(reader) for _ in orders] == orders
        assert await next_answer(reader) == answer
        assert await next_answer(reader) is None

    asyncio.run(scene())
