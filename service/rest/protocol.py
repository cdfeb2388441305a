"""The HTTP protocol class: answers the infer routes itself, in one write, and leaves all else to uvicorn and ASGI.

The ASGI way of a request (scope, receive, two sends, two writes) costs several times what the lane does. Only the plain
case is taken: POST, HTTP/1.1, one request at a time; `infer.py` is asked the same way as by ASGI. Heads and chunks are
held to their limits here, before anything else sees them.
"""

from __future__ import annotations

import asyncio
import http
import re
import time
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.rest.body import too_large
from service.rest.doors import Answer
from service.rest.errors import BODY_TOO_LARGE, HEAD_TOO_LARGE, error_body
from service.rest.infer import Asked, InferLane
from service.rest.routes import Route, find_route

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}
MAX_PIECES = 4096  # of a body, each an object of its own; more are gathered, or a slow client fills memory with them
# Java's client offers HTTP/2 so with each first request; the parser would take the body for the other protocol's bytes.
OFFER = re.compile(rb"\r\nupgrade:[ \t]*h2c(?=\r\n)", re.IGNORECASE)
OFFER_BYTES = 8192  # of a head are searched for it
NOT_HTTP = "what came is not a valid HTTP/1.1 request: the connection is closed"
JOIN_BYTES = 64 * 1024  # below this, one write of a joined buffer is cheaper than several buffers


class LaneCycle:
    """One request on the lane, with the fields that uvicorn's protocol reads of its own request cycle."""

    __slots__ = (
        *("arrived", "chunks", "disconnected", "headers", "keep_alive", "message_event"),
        *("more_body", "query", "response_complete", "route", "size", "task"),
    )

    def __init__(self, route: Route, query: bytes, headers: dict[bytes, bytes], keep_alive: bool) -> None:
        self.route = route
        self.query = query
        self.headers = headers
        self.keep_alive = keep_alive
        self.chunks: list[bytes | bytearray] = []
        self.size = 0
        self.task: asyncio.Task[None] | None = None
        self.arrived = time.monotonic()
        self.message_event = asyncio.Event()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False

    def gather(self) -> None:
        """Let the pieces of the body be one."""
        first, *others = self.chunks
        whole = first if isinstance(first, bytearray) else bytearray(first)
        for piece in others:
            whole += piece
        self.chunks = [whole]


class LaneProtocol(HttpToolsProtocol):
    """uvicorn makes one of these for each connection; `lane` is set in the subclass that `lane_protocol` makes."""

    lane: InferLane
    serves_lane = True
    _in_head = False
    _is_between = True  # requests: what comes next is a head
    _head_bytes = 0  # of the head that is being read, before `_arriving` more
    _arriving = 0
    _chunk_count = 0
    _refusal: tuple[int, str] | None = None

    def data_received(self, data: bytes) -> None:
        """As the parent's, which costs two calls more, with the head held to its limit."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._arriving = len(data)
        if self._is_between and data.find(b"h2c", 0, OFFER_BYTES) >= 0:
            data = _without_offer(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        except httptools.HttpParserError:
            self.send_400_response("")
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.lane.limits.header_bytes and self._refusal is None:
                self._refusal = (HEAD_TOO_LARGE, self._head_too_large())
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """As the parent's, but the scope is made only where ASGI needs it."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._is_between = False
        self._head_bytes = self._chunk_count = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        limit = self.lane.limits.header_bytes
        if self._head_bytes + self._arriving > limit and self._count_head() > limit:
            self._refuse(HEAD_TOO_LARGE, self._head_too_large())
        cycle = self._lane_cycle() if self.serves_lane else None
        if cycle is None:
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers += headers  # the scope holds this very list
            super().on_headers_complete()
        else:
            self.cycle = cycle  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if type(cycle) is not LaneCycle:
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.chunks.append(body)
            cycle.size += len(body)
            if cycle.size > self.lane.limits.body_bytes:
                self._write(cycle, self.lane.refusal(too_large(cycle.size, self.lane.limits.body_bytes)))
                self._done(cycle)
            elif len(cycle.chunks) > MAX_PIECES:
                cycle.gather()

    def on_chunk_header(self) -> None:
        """Called for each chunk of a body that comes in chunks."""
        self._chunk_count += 1
        if self._chunk_count > self.lane.limits.chunks:
            limit = self.lane.limits.chunks
            self._refuse(BODY_TOO_LARGE, f"the body comes in more than {limit} chunks (setting max_chunks): join them")

    def on_message_complete(self) -> None:
        self._is_between = True
        cycle: Any = self.cycle
        if type(cycle) is not LaneCycle:
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.more_body = False
            cycle.task = self.loop.create_task(self._answer(cycle))
            self.tasks.add(cycle.task)
            cycle.task.add_done_callback(self.tasks.discard)

    def connection_lost(self, exc: Exception | None) -> None:
        cycle: Any = self.cycle
        if type(cycle) is LaneCycle and cycle.task is not None:
            cycle.task.cancel()  # nobody waits for the answer: what still waits in a queue need not run
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """The last answer of a connection on which HTTP itself went wrong."""
        status, sentence = self._refusal or (400, NOT_HTTP)
        body = error_body(sentence)
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(b"".join([STATUS_LINES[status], head, body]))
        self.transport.close()

    def _refuse(self, status: int, sentence: str) -> None:
        """Inside the parser's callbacks: stop it; `data_received` then answers."""
        self._refusal = (status, sentence)
        raise ValueError(sentence)

    def _count_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_too_large(self) -> str:
        return (
            f"the head of the request is larger than {self.lane.limits.header_bytes} bytes (setting max_header_bytes)"
        )

    def _lane_cycle(self) -> LaneCycle | None:
        """Where this is a plain request to an infer route: its cycle."""
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # pipelined: uvicorn keeps the order
        path, _, query = self.url.partition(b"?")
        if self.parser.get_method() != b"POST":
            return None
        if not path.startswith(self.lane.prefix):
            return None
        route = find_route(path[len(self.lane.prefix) :] if self.lane.prefix else path)
        if route is None or route.door == "generate_stream":
            return None
        if self.parser.get_http_version() != "1.1" or self.parser.should_upgrade() or self.expect_100_continue:
            return None
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.lane.limits.body_bytes:
            return None  # refused before it is read, by the way of ASGI
        if not self.lane.admits(headers):
            return None
        return LaneCycle(route, query, headers, self.parser.should_keep_alive())

    async def _answer(self, cycle: LaneCycle) -> None:
        body = cycle.chunks[0] if len(cycle.chunks) == 1 else b"".join(cycle.chunks)
        self._write(cycle, await self.lane.answer(Asked(cycle.route, cycle.query, cycle.headers, body, cycle.arrived)))
        if self.flow.write_paused:
            await self.flow.drain()  # a slow reader gets nothing more before it has read this
        self._done(cycle)

    def _write(self, cycle: LaneCycle, answer: Answer) -> None:
        status, headers, blobs = answer
        size = sum(map(len, blobs))
        lines = [STATUS_LINES[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            if name == b"connection":
                cycle.keep_alive = False  # the lane says nothing of it but close
            else:
                lines += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % size)
        if size <= JOIN_BYTES:
            self.transport.write(b"".join([*lines, *blobs]))
        else:
            self.transport.writelines([b"".join(lines), *blobs])

    def _done(self, cycle: LaneCycle) -> None:
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _without_offer(data: bytes) -> bytes:
    """The head without its offer to speak HTTP/2, which is declined by answering as if it were not there."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    return OFFER.sub(b"", head + b"\r\n").removesuffix(b"\r\n") + blank + rest


def lane_protocol(lane: InferLane, *, serves_lane: bool = True) -> type[LaneProtocol]:
    """The class for `uvicorn.Config(http=...)`, bound to `lane`; without `serves_lane` all goes the way of ASGI."""
    return type("BoundLaneProtocol", (LaneProtocol,), {"lane": lane, "serves_lane": serves_lane})
