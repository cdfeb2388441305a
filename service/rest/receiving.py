"""Large bodies of HTTP requests are received where engines read them: in shared memory, not as bytes that are copied.

Knows sockets' buffers and sizes, nothing of HTTP but the headers that tell the size. `protocol.py` says what is
expected; once a connection has had a large body, this is its protocol, and hands all on that is no such body.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import httptools

from service.engine.arena import Arena
from service.engine.lending import LENT_BYTES
from service.rest.cycle import LaneCycle
from service.rest.familiar import JSON_SIZE, MAX_DIGITS
from service.rest.raw import RAW

HEAD_BYTES = 8192  # read behind a large body: the next head with its JSON, and little of its tensors, to be copied
SCRATCH = memoryview(bytearray(256 * 1024))  # of all connections: what is read into it is taken at once


class Owner(Protocol):
    """The protocol of the connection, as this needs it."""

    def data_received(self, data: bytes) -> None: ...
    def body_received(self) -> None: ...
    def eof_received(self) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class BodyReceiver(asyncio.BufferedProtocol):
    """Takes a protocol's place. After `expect(place)`, what comes fills it; then `owner.body_received()` is called."""

    def __init__(self, owner: Owner, transport: asyncio.Transport) -> None:
        self._owner = owner
        self._place: memoryview | None = None
        self._follows_body = True
        transport.pause_reading()  # uvloop asks how to read as it begins to
        transport.set_protocol(self)
        transport.resume_reading()

    def expect(self, place: memoryview) -> None:
        """The next bytes, as many as it has, go there. It is not empty."""
        self._place = place

    @property
    def left(self) -> int:
        """Bytes that are yet to come of the body that is expected."""
        return len(self._place) if self._place is not None else 0

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._place is not None:
            return self._place
        return SCRATCH[:HEAD_BYTES] if self._follows_body else SCRATCH

    def buffer_updated(self, nbytes: int) -> None:
        if self._place is None:
            self._follows_body = False
            self._owner.data_received(bytes(SCRATCH[:nbytes]))
        elif nbytes < len(self._place):
            self._place = self._place[nbytes:]
        else:
            self._place, self._follows_body = None, True
            self._owner.body_received()

    def eof_received(self) -> None:
        self._owner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._place = None
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()


def find_place(arena: Arena | None, cycle: LaneCycle) -> memoryview | None:
    """Where the body of a request goes whose headers have come; None: it is small or not plain, or there is no room."""
    headers, door = cycle.headers, cycle.route.door
    if arena is None or door not in ("v2", "v1"):
        return None
    if JSON_SIZE not in headers and (door == "v2" or headers.get(b"content-type") != RAW):
        return None  # text, or what is to be unpacked
    if b"content-encoding" in headers or b"transfer-encoding" in headers:
        return None
    sizes = headers.get(b"content-length", b""), headers.get(JSON_SIZE, b"0")
    if not all(size.isdigit() and len(size) <= MAX_DIGITS for size in sizes):
        return None
    whole, text = map(int, sizes)
    return arena.take(whole) if whole - text >= LENT_BYTES else None


def new_parser(owner: object) -> httptools.HttpRequestParser:
    """As uvicorn makes it. In place of one that waits for a body which it will not see."""
    parser = httptools.HttpRequestParser(owner)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
