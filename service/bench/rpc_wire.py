"""One HTTP/2 connection that carries gRPC calls side by side: the same message written again and again.

Written by hand on a bare asyncio protocol since a call costs grpc.aio ten times as much: beside a fast server that
would be what is measured. Flow control, settings and pings are honoured; of an answer framing and status are checked.
`rpc_slot.py` is a call on it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from service.bench import http2
from service.bench.outcomes import DISCONNECTED, GRPC, MALFORMED, OK, RESET

METHOD = "/inference.GRPCInferenceService/ModelInfer"
REFILL_BYTES = 1 << 29  # received before the peer is allowed as many more: long before its window ends


class Call(Protocol):
    """What carries a call: `window` and `sent` count its message, `received` and `announced` the answer's."""

    window: int
    sent: int
    received: int
    announced: int

    def ended(self, outcome: int) -> None: ...


class Owner(Protocol):
    """Who is told that the connection takes no more calls."""

    def lost(self, wire: Wire) -> None: ...


class Wire(asyncio.Protocol):
    """`begin(call)` writes a call; `call.ended(outcome)` follows, exactly once."""

    transport: asyncio.Transport

    def __init__(self, owner: Owner, authority: str, payload: bytes, deadline_s: float = 0.0) -> None:
        self._owner = owner
        self._headers = http2.request_headers(authority, METHOD, deadline_s)
        self._message = http2.GRPC_PREFIX.pack(0, len(payload)) + payload
        self._calls: dict[int, Call] = {}
        self._blocked: dict[int, Call] = {}  # with a part of their message still to be sent
        self._next_stream = 1
        self._window = self._initial_window = http2.DEFAULT_WINDOW
        self._max_frame = http2.DEFAULT_MAX_FRAME
        self._received = 0
        self._rest = b""
        self._block = b""  # headers whose continuation is to come
        self._block_flags = 0
        self._out: list[bytes] = []
        self._is_reading = False
        self.greeted = asyncio.get_running_loop().create_future()

    def begin(self, call: Call) -> None:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        call.window, call.sent, call.received, call.announced = self._initial_window, 0, 0, -1
        self._calls[stream] = call
        header = http2.frame_header(len(self._headers), http2.HEADERS, http2.END_HEADERS, stream)
        self._out += (header, self._headers)
        self._push(stream, call)
        if not self._is_reading:
            self._flush()

    def cancel(self, call: Call) -> None:
        """Forget `call`, which is under way; its `ended` is not called."""
        stream = next(stream for stream, each in self._calls.items() if each is call)
        self._forget(stream)
        self.transport.write(http2.frame(http2.RESET, 0, stream, http2.CANCEL.to_bytes(4, "big")))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(http2.greeting())

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        at, size = 0, len(data)
        self._is_reading = True
        while size - at >= http2.FRAME_HEADER_BYTES:
            high, low, kind, flags, stream = http2.FRAME_HEADER.unpack_from(data, at)
            first = at + http2.FRAME_HEADER_BYTES
            end = first + (high << 16 | low)
            if end > size:
                break
            self._take(kind, flags, stream & http2.STREAM_MASK, data[first:end])
            at = end
        self._rest = data[at:]
        self._is_reading = False
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        calls, self._calls = self._calls, {}
        if not self.greeted.done():
            self.greeted.set_exception(ConnectionError("the server speaks no HTTP/2"))
        self._owner.lost(self)
        for call in calls.values():
            call.ended(DISCONNECTED)

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        match kind:
            case http2.DATA:
                self._take_data(flags, stream, body)
            case http2.HEADERS:
                self._block, self._block_flags = http2.header_block(body, flags), flags
                self._take_headers(flags, stream)
            case http2.CONTINUATION:
                self._block += body
                self._take_headers(flags, stream)
            case http2.RESET:
                self._end(stream, RESET)
            case http2.SETTINGS if not flags & http2.ACK:
                self._settle(http2.read_settings(body))
            case http2.PING if not flags & http2.ACK:
                self._out.append(http2.frame(http2.PING, http2.ACK, 0, body))
            case http2.WINDOW_UPDATE:
                self._widen(stream, int.from_bytes(body, "big") & http2.STREAM_MASK)
            case http2.GO_AWAY:
                self._leave(int.from_bytes(body[:4], "big") & http2.STREAM_MASK)

    def _take_data(self, flags: int, stream: int, body: bytes) -> None:
        self._received += len(body)
        if self._received > REFILL_BYTES:
            self._out.append(http2.widen(self._received))
            self._received = 0
        if (call := self._calls.get(stream)) is None:
            return  # given up before
        message = http2.header_block(body, flags & http2.PADDED)
        if not call.received and len(message) >= http2.GRPC_PREFIX.size:
            call.announced = http2.GRPC_PREFIX.size + http2.GRPC_PREFIX.unpack_from(message)[1]
        call.received += len(message)
        if flags & http2.END_STREAM:  # without a status
            self._end(stream, MALFORMED)

    def _take_headers(self, flags: int, stream: int) -> None:
        if not flags & http2.END_HEADERS or not self._block_flags & http2.END_STREAM:
            return
        status, call = http2.find_status(self._block), self._calls.get(stream)
        if call is None:
            return
        if status is None or (status == OK and call.received != call.announced):
            self._end(stream, MALFORMED)
        else:
            self._end(stream, GRPC + status if status else OK)

    def _end(self, stream: int, outcome: int) -> None:
        if call := self._forget(stream):
            call.ended(outcome)

    def _forget(self, stream: int) -> Call | None:
        self._blocked.pop(stream, None)
        return self._calls.pop(stream, None)

    def _leave(self, last_stream: int) -> None:
        """The peer takes no more calls on this connection, and answers those up to `last_stream`."""
        self._owner.lost(self)
        for stream in [stream for stream in self._calls if stream > last_stream]:
            self._end(stream, DISCONNECTED)

    def _settle(self, settings: dict[int, int]) -> None:
        self._max_frame = settings.get(http2.MAX_FRAME, self._max_frame)
        initial = settings.get(http2.INITIAL_WINDOW, self._initial_window)
        for call in self._calls.values():
            call.window += initial - self._initial_window
        self._initial_window = initial
        self._out.append(http2.frame(http2.SETTINGS, http2.ACK, 0))
        if not self.greeted.done():
            self.greeted.set_result(None)
        self._push_blocked()

    def _widen(self, stream: int, size: int) -> None:
        if stream == 0:
            self._window += size
        elif call := self._calls.get(stream):
            call.window += size
        if self._blocked:
            self._push_blocked()

    def _push_blocked(self) -> None:
        for stream, call in list(self._blocked.items()):
            self._push(stream, call)

    def _push(self, stream: int, call: Call) -> None:
        """As much of the message as the windows let through."""
        total = len(self._message)
        while call.sent < total:
            size = min(self._window, call.window, self._max_frame, total - call.sent)
            if size <= 0:
                self._blocked[stream] = call
                return
            part = self._message[call.sent : call.sent + size]
            call.sent += size
            call.window -= size
            self._window -= size
            is_last = call.sent == total
            self._out += (http2.frame_header(size, http2.DATA, http2.END_STREAM if is_last else 0, stream), part)
        self._blocked.pop(stream, None)

    def _flush(self) -> None:
        if self._out:
            self.transport.write(b"".join(self._out))
            self._out.clear()
