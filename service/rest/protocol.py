"""The HTTP protocol class: answers the infer routes itself, in one write, and leaves all else to uvicorn and ASGI.

The ASGI way of a request (scope, receive, two sends, two writes) costs several times what the lane does. Only the plain
case is taken: POST, HTTP/1.1, one request at a time; `infer.py` is asked the same way as by ASGI. Heads and chunks are
held to their limits here, before anything else sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httptools

from service.errors import ServiceError
from service.rest.body import too_large
from service.rest.cycle import FamiliarCycle, LaneCycle
from service.rest.doors import Answer
from service.rest.errors import BODY_TOO_LARGE, HEAD_TOO_LARGE, STATUS_LINES, error_body
from service.rest.familiar import HEAD_END, MAX_BYTES
from service.rest.infer import InferLane, asked_of
from service.rest.offer import has_offer, without_offer
from service.rest.patient import PatientProtocol
from service.rest.receiving import BodyReceiver, find_place, new_parser
from service.rest.routes import find_route

MAX_PIECES = 4096  # of a body, each an object of its own; more are gathered, or a slow client fills memory with them
NOT_HTTP = "what came is not a valid HTTP/1.1 request: the connection is closed"
JOIN_BYTES = 64 * 1024  # below this, one write of a joined buffer is cheaper than several buffers


class LaneProtocol(PatientProtocol):
    """uvicorn makes one of these for each connection; `lane` is set in the subclass that `lane_protocol` makes."""

    lane: InferLane
    serves_lane = True
    _arriving = _chunk_count = 0  # bytes behind `_head_bytes`; chunks of this body

    def data_received(self, data: bytes) -> None:
        """As the parent's, with the head held to its limit. What came before goes a shorter way."""
        is_first = self._is_between and (self.cycle is None or self.cycle.response_complete)
        if is_first and self.serves_lane and self._serve_familiar(data):
            return
        self._arriving = len(data)
        if self._is_between and has_offer(data):
            data, is_first = without_offer(data), False
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
        cycle: Any = self.cycle
        if type(cycle) is not LaneCycle:
            return
        if is_first and self._is_between and cycle.keep_alive:
            self.lane.familiar.remember(data, cycle.route, cycle.headers, cycle.size)
        elif cycle.place is not None and cycle.more_body:
            if is_first and cycle.keep_alive:
                cycle.opening = data[: data.find(HEAD_END) + len(HEAD_END)]
            self.parser = new_parser(self)
            self._receive(cycle.place[cycle.size :])

    def _receive(self, place: memoryview) -> None:
        """The rest of a body goes there."""
        if self._receiver is None:
            self._receiver = BodyReceiver(self, self.transport)
        self._receiver.expect(place)

    def body_received(self) -> None:
        """The place of the body is full."""
        cycle: Any = self.cycle
        if type(cycle) is FamiliarCycle:
            self._is_between = True
            cycle.more_body = False
            if self.lane.familiar.holds(cycle.form):
                self._send_familiar(cycle, cycle.take_place())
                return
            cycle = cycle.unfamiliar()  # what serves has changed meanwhile
            self.cycle = cycle
        self.on_message_complete()
        if cycle.opening:
            self.lane.familiar.learn(cycle.opening, cycle.place, cycle.route, cycle.headers)

    def _serve_familiar(self, data: bytes) -> bool:
        """True where it is one request whose head and JSON came before: it is on its way, or comes."""
        end = data.find(HEAD_END, 0, MAX_BYTES) + len(HEAD_END)
        form = self.lane.familiar.find(data, end) if end >= len(HEAD_END) else None
        if form is None or not self.lane.admits(form.head.headers):
            return False
        if self.lane.watcher is not None and not self.lane.watcher.passes_by(form.head.route.model):
            return False  # somebody wants to see this request
        start = end + form.head.json_bytes
        tensors, place = memoryview(data)[start:], None
        if len(tensors) < form.head.tensor_bytes:
            place = self.lane.arena.take(form.head.tensor_bytes) if self.lane.arena is not None else None
            if place is None:
                return False
        cycle: Any = FamiliarCycle(self, form)
        self.cycle = cycle
        if place is None:
            self._send_familiar(cycle, tensors)
            return True
        place[: len(tensors)] = tensors
        cycle.place, cycle.opening, cycle.more_body = place, data[end:start], True
        self._is_between = False
        self._receive(place[len(tensors) :])
        return True

    def _send_familiar(self, cycle: FamiliarCycle, tensors: memoryview) -> None:
        blobs = cycle.form.tensors(tensors)
        cycle.task = self.lane.templates.send(cycle.form.template, blobs, cycle.arrived, cycle)

    def write_familiar(self, cycle: FamiliarCycle, start: bytes, tensors: Sequence[memoryview]) -> None:
        """The answer: `start` is the rest of its head and its JSON."""
        opening = self._opening() if cycle.keep_alive else self._opening() + b"connection: close\r\n"
        if sum(map(len, tensors)) <= JOIN_BYTES:
            self.transport.write(b"".join((opening, start, *tensors)))
        else:
            self.transport.writelines([opening + start, *tensors])
        self._after_familiar(cycle)

    def refuse_familiar(self, cycle: FamiliarCycle, error: ServiceError) -> None:
        """The answer where there is none."""
        self._write(cycle, self.lane.refusal(error))
        self._after_familiar(cycle)

    def _after_familiar(self, cycle: FamiliarCycle) -> None:
        if self.flow.write_paused:
            task = self.loop.create_task(self._drain(cycle))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            self._done(cycle)

    async def _drain(self, cycle: LaneCycle) -> None:
        """A slow reader gets nothing more before it has read this."""
        if self.flow.write_paused:
            await self.flow.drain()
        self._done(cycle)

    def _opening(self) -> bytes:
        """The status and the server's own headers, which are new every second."""
        headers, lane = self.server_state.default_headers, self.lane
        if lane.opened_with is not headers:
            lines = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
            lane.opened_with, lane.opening = headers, STATUS_LINES[200] + lines
        return lane.opening

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
            cycle.place = find_place(self.lane.arena, cycle)

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if type(cycle) is not LaneCycle:
            super().on_body(body)
        elif not cycle.response_complete:
            if cycle.place is not None:
                cycle.place[cycle.size : cycle.size + len(body)] = body
            else:
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
        if isinstance(cycle, LaneCycle):
            cycle.abandon()
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
        self._write(cycle, await self.lane.answer(asked_of(cycle)))
        await self._drain(cycle)

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
        cycle.place = None
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


def lane_protocol(lane: InferLane, *, serves_lane: bool = True) -> type[LaneProtocol]:
    """The class for `uvicorn.Config(http=...)`, bound to `lane`; without `serves_lane` all goes the way of ASGI."""
    return type("BoundLaneProtocol", (LaneProtocol,), {"lane": lane, "serves_lane": serves_lane})
