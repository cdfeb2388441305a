"""Clients that stop amid a request or an answer are given up after a while, by a clock of the test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.rest.protocol import lane_protocol
from service.rest.stalled import Progress, Stalled
from tests.service.rest.asking import Client

BODY = b'{"inputs": {"x": [[1, 2, 3]]}}'
HEAD = b"POST /v1/models/double/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)
ADMIN = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
LIMIT_S = 60.0


class Socket(asyncio.Transport):
    """Keeps what is written, or says that nobody reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unread = 0
        self.is_closed = self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


class Connection:
    """A connection on which pieces come, looked at as often as the test says."""

    def __init__(self) -> None:
        app = Client().app
        http = lane_protocol(app.lane)
        config = uvicorn.Config(app, http=http, loop="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
        config.load()
        self.state = ServerState()
        self.protocol: Any = http(config, self.state, {})
        self.socket = Socket()
        self.protocol.connection_made(self.socket)
        self.now = 0.0
        self.stalled = Stalled(LIMIT_S, lambda: self.now)

    def look(self, *times: float) -> None:
        for self.now in times:
            self.stalled.look(self.state.connections)

    async def send(self, data: bytes) -> None:
        self.protocol.data_received(data)
        for _ in range(1000):
            await asyncio.sleep(0)
            if not self.state.tasks:
                return

    async def end(self) -> None:
        self.protocol.connection_lost(None)
        await asyncio.gather(*self.state.tasks, return_exceptions=True)


async def _stop_after(parts: Sequence[bytes]) -> Socket:
    connection = Connection()
    for part in parts:
        await connection.send(part)
    connection.look(0, 15, 45, 59)
    assert not connection.socket.is_closed
    connection.look(60)
    await connection.end()
    return connection.socket


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD[:20]],
        [HEAD],
        [HEAD + BODY[:5]],
        [HEAD + BODY, HEAD[:20]],
        [HEAD + BODY, HEAD + BODY[:5]],
        [b"POST /v1/models/double/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"],
    ],
    ids=["head", "before-body", "body", "next-head", "next-body", "chunk"],
)
def test_who_stops_amid_a_request_is_told_and_let_go(parts: list[bytes]) -> None:
    socket = asyncio.run(_stop_after(parts))
    last = socket.written[socket.written.rindex(b"HTTP/1.1 ") :]
    assert last.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"stall_timeout_s" in json.loads(last.partition(b"\r\n\r\n")[2])["error"].encode()
    assert b"connection: close" in last
    assert socket.is_closed


def test_who_never_asks_is_let_go_without_a_word() -> None:
    socket = asyncio.run(_stop_after([]))
    assert socket.is_aborted
    assert not socket.written


def test_who_comes_further_is_waited_for_however_slow() -> None:
    async def trickle() -> Socket:
        connection = Connection()
        for number, byte in enumerate(HEAD + BODY):
            connection.look(50.0 * number)
            await connection.send(bytes([byte]))
        await connection.end()
        return connection.socket

    assert asyncio.run(trickle()).written.startswith(b"HTTP/1.1 200 ")


def test_who_has_its_answer_is_left_to_the_timer_of_idle_connections() -> None:
    async def idle() -> Socket:
        connection = Connection()
        await connection.send(HEAD + BODY)
        connection.look(0, 1000)
        assert not connection.socket.is_closed
        await connection.end()
        return connection.socket

    assert asyncio.run(idle()).written.count(b"HTTP/1.1 ") == 1


def test_a_body_that_asgi_reads_comes_further_with_each_piece() -> None:
    async def upload() -> Socket:
        connection = Connection()
        connection.protocol.data_received(ADMIN)
        for number in range(5):
            connection.look(50.0 * number)
            connection.protocol.data_received(b" ")
        assert not connection.socket.is_closed
        connection.look(200, 270)
        await connection.end()
        return connection.socket

    assert asyncio.run(upload()).is_closed


def test_who_does_not_read_is_cut_off_where_nothing_of_it_leaves() -> None:
    async def read_slowly() -> Socket:
        connection = Connection()
        await connection.send(HEAD + BODY)
        connection.protocol.pause_writing()
        for moment, connection.socket.unread in ((0, 900), (50, 800), (100, 700), (159, 700)):
            connection.look(moment)
            assert not connection.socket.is_closed
        connection.look(160)
        await connection.end()
        return connection.socket

    assert asyncio.run(read_slowly()).is_aborted


def test_nothing_is_kept_of_connections_that_are_gone() -> None:
    class Half:
        progress: Progress | None = ("sending", 1)

        def give_up(self) -> None:
            raise AssertionError("it has just come")

    moment = 0.0
    stalled = Stalled(LIMIT_S, lambda: moment)
    one = Half()
    stalled.look([one])
    moment = 1000.0
    stalled.look([])
    assert repr(stalled) == "<Stalled 0 seen>"
    stalled.look([one])  # as if it had come anew
