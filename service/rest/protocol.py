"""The HTTP protocol class: answers the infer routes itself, in one write, and leaves all else to uvicorn and ASGI.

The ASGI way of a request (scope, receive, two sends, two writes) costs several times what the lane does. Only the plain
case is taken: POST, HTTP/1.1, one request at a time; `infer.py` is asked the same way as by ASGI.
"""

from __future__ import annotations

import asyncio
import http
import time
from typing import Any
from urllib.parse import unquote_to_bytes

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.rest.body import too_large
from service.rest.infer import ROUTE, Asked, InferLane
from service.rest.v1 import Answer

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}
JOIN_BYTES = 64 * 1024  # below this, one write of a joined buffer is cheaper than several buffers


class LaneCycle:
    """One request on the lane, with the fields that uvicorn's protocol reads of its own request cycle."""

    __slots__ = (
        *("arrived", "chunks", "disconnected", "headers", "keep_alive", "message_event"),
        *("more_body", "query", "response_complete", "route", "size", "task"),
    )

    def __init__(self, route: Any, query: bytes, headers: dict[bytes, bytes], keep_alive: bool) -> None:
        self.route = route
        self.query = query
        self.headers = headers
        self.keep_alive = keep_alive
        self.chunks: list[bytes] = []
        self.size = 0
        self.task: asyncio.Task[None] | None = None
        self.arrived = time.monotonic()
        self.message_event = asyncio.Event()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False


class LaneProtocol(HttpToolsProtocol):
    """uvicorn makes one of these for each connection; `lane` is set in the subclass that `lane_protocol` makes."""

    lane: InferLane

    def on_message_begin(self) -> None:
        """As the parent's, but the scope is made only where ASGI needs it."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        cycle = self._lane_cycle()
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
            if cycle.size > self.lane.max_body_bytes:
                self._write(cycle, self.lane.refusal(too_large(cycle.size, self.lane.max_body_bytes)))
                self._done(cycle)

    def on_message_complete(self) -> None:
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

    def _lane_cycle(self) -> LaneCycle | None:
        """Where this is a plain request to an infer route: its cycle."""
        if self.cycle is not None and not self.cycle.response_complete:
            return None  # pipelined: uvicorn keeps the order
        path, _, query = self.url.partition(b"?")
        if not path.endswith(b"/infer") or self.parser.get_method() != b"POST":
            return None
        if self.parser.get_http_version() != "1.1" or self.parser.should_upgrade() or self.expect_100_continue:
            return None
        route = ROUTE.fullmatch(unquote_to_bytes(path).decode("utf-8", "replace"))
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"0")
        if route is None or (length.isdigit() and int(length) > self.lane.max_body_bytes):
            return None  # refused before it is read, by the way of ASGI
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


def lane_protocol(lane: InferLane) -> type[LaneProtocol]:
    """The class for `uvicorn.Config(http=...)`, bound to `lane`."""
    return type("BoundLaneProtocol", (LaneProtocol,), {"lane": lane})
