"""The protocol class on bytes: heads, chunks and pieces within their limits, and whatever else may come."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from service.rest.protocol import MAX_PIECES, lane_protocol
from tests.service.rest.asking import Client

BODY = b'{"inputs": {"x": [[1, 2, 3]]}}'
SENT = b"POST /v1/models/double/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
SMALL = Client(max_header_bytes=1024, max_chunks=4)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        """Nothing is read here."""

    def resume_reading(self) -> None:
        """Nothing is read here."""


def talk(*parts: bytes, client: Client | None = None, serves_lane: bool = True) -> Transport:
    """What one connection answers to `parts`, as they come."""
    app = (client or SMALL).app
    http = lane_protocol(app.lane, serves_lane=serves_lane)
    config = uvicorn.Config(app, http=http, loop="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
    config.load()

    async def run() -> Transport:
        state = ServerState()
        protocol: Any = http(config, state, {})
        transport = Transport()
        protocol.connection_made(transport)
        for part in parts:
            if not transport.is_closed:
                protocol.data_received(part)
        for _ in range(1000):
            await asyncio.sleep(0)
            if not state.tasks:
                break
        protocol.connection_lost(None)
        await asyncio.gather(*state.tasks, return_exceptions=True)
        return transport

    return asyncio.run(run())


def status(transport: Transport) -> int:
    return int(transport.written.split(b" ", 2)[1])


def error(transport: Transport) -> str:
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert b"content-type: application/json\r\n" in head
    return str(json.loads(body)["error"])


@pytest.mark.parametrize("serves_lane", [True, False])
def test_answers(serves_lane: bool) -> None:
    assert status(talk(SENT, serves_lane=serves_lane)) == 200
    assert status(talk(*(SENT[at : at + 5] for at in range(0, len(SENT), 5)), serves_lane=serves_lane)) == 200


@pytest.mark.parametrize("serves_lane", [True, False])
@pytest.mark.parametrize(
    "parts",
    [
        (b"POST /v1/models/double/infer HTTP/1.1\r\nX: " + b"x" * 2000 + b"\r\nContent-Length: 0\r\n\r\n",),
        (b"GET /v2 HTTP/1.1\r\n", b"X: " + b"x" * 600, b"x" * 600),
        (b"GET /" + b"v" * 600, b"2" * 600),
        (b"GET /v2 HTTP/1.1\r\n", *[b"X: x\r\n"] * 200),
    ],
)
def test_a_head_beyond_the_limit(parts: tuple[bytes, ...], serves_lane: bool) -> None:
    transport = talk(*parts, serves_lane=serves_lane)
    assert (status(transport), transport.is_closed) == (431, True)
    assert "max_header_bytes" in error(transport)


@pytest.mark.parametrize("path", [b"/v1/models/double/infer", b"/v2/logging"])
def test_more_chunks_than_the_limit(path: bytes) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path
    transport = talk(head, *[b"1\r\n \r\n"] * 5)
    assert (status(transport), transport.is_closed) == (413, True)
    assert "max_chunks" in error(transport)


@pytest.mark.parametrize("serves_lane", [True, False])
@pytest.mark.parametrize("offer", [b"Upgrade: h2c\r\nConnection: Upgrade", b"connection: upgrade\r\nupgrade:h2c"])
def test_an_offer_of_http_2_is_declined_and_the_body_kept(offer: bytes, serves_lane: bool) -> None:
    sent = SENT.replace(b"Host: x", b"Host: x\r\n" + offer)
    transport = talk(sent, serves_lane=serves_lane)
    assert (status(transport), transport.written.count(b"HTTP/1.1 ")) == (200, 1)


def test_an_offer_inside_a_body_is_data() -> None:
    body = b'{"inputs": {"x": [[1, 2, 3]]}, "note": "\\r\\n"}\r\nUpgrade: h2c\r\n\r\n'
    head = b"POST /v1/models/double/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    transport = talk(head, body)
    assert status(transport) == 400
    assert "not valid JSON" in error(transport), "the words after the JSON came with it"


def test_what_is_not_http_is_told_so_in_json() -> None:
    transport = talk(b"\x00\x01\x02\r\n\r\n")
    assert (status(transport), transport.is_closed) == (400, True)
    assert "not a valid HTTP/1.1 request" in error(transport)


def test_a_body_in_many_pieces_becomes_one() -> None:
    padded = b" " * (2 * MAX_PIECES) + BODY
    head = b"POST /v1/models/double/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(padded)
    pieces = [padded[at : at + 1] for at in range(len(padded))]
    assert status(talk(head, *pieces, client=Client(max_body_bytes=100_000))) == 200


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, len(SENT) - 1), st.integers(0, 255)), max_size=4),
    st.integers(1, len(SENT)),
)
def test_any_mutation_on_the_wire_is_answered_or_awaited(changes: list[tuple[int, int]], cut: int) -> None:
    sent = bytearray(SENT)
    for at, value in changes:
        sent[at] = value
    transport = talk(bytes(sent[:cut]), bytes(sent[cut:]))
    if transport.written:
        assert status(transport) < 500
