"""Two ends of a socket that carries frames: one for an event loop, one for a thread that blocks.

Knows no particular message. `client.py` talks to engines through `FrameProtocol`; `children.py` and the children's
mains talk to each other through both.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, cast

import msgspec

from service.engine.transport import FrameReader, frame, joined

T = TypeVar("T")

LINK_VARIABLE = "TORCHERE_LINK"  # the number of the socket that a child inherits from its parent


class FrameProtocol(asyncio.BufferedProtocol, Generic[T]):
    """Calls `on_frame(message, body)` for each frame, `on_read()` after those of a read, `on_lost()` as the peer goes.

    What is sent within one turn of the loop leaves in one write.
    """

    def __init__(
        self,
        types: type[T],
        on_frame: Callable[[T, memoryview], None],
        on_lost: Callable[[], None],
        on_read: Callable[[], None] = lambda: None,
        read_lent: Callable[[memoryview], list[memoryview]] | None = None,
    ) -> None:
        self._reader = FrameReader(types, read_lent)
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._on_read = on_read
        self._outgoing: list[bytes | bytearray | memoryview] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, message: msgspec.Struct, blobs: Sequence[bytes | bytearray | memoryview] = ()) -> None:
        """Queue one frame; dropped where the peer is gone, which `on_lost` has told."""
        self.send_buffers(frame(message, blobs))

    def send_buffers(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        """The same for frames that are made already."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.extend(buffers)

    def close(self) -> None:
        if self._transport is not None:
            self._flush()
            self._transport.close()

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self.is_open and outgoing:
            assert self._transport is not None, "an open protocol has its transport"
            self._transport.writelines(joined(outgoing))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour, not by class

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        for message, body in self._reader.received(nbytes):
            self._on_frame(message, body)
        self._on_read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost()


class BlockingLink(Generic[T]):
    """The same frames for a thread: `for message in link` ends when the peer is gone. Any thread may `send`."""

    def __init__(self, sock: socket.socket, types: type[T]) -> None:
        self._sock = sock
        self._reader = FrameReader(types)
        self._lock = threading.Lock()

    def send(self, message: msgspec.Struct) -> None:
        """Raises OSError where the peer is gone."""
        with self._lock:
            self._sock.sendall(b"".join(frame(message)))

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                count = self._sock.recv_into(self._reader.buffer())
            except OSError:  # the peer died with data unread: the same as gone
                return
            if not count:
                return
            for message, _ in self._reader.received(count):
                yield message


class OutgoingBuffers:
    """What a non-blocking socket could not take yet, in order."""

    MAX_BUFFERS = 512  # well under Linux's IOV_MAX of 1024

    def __init__(self) -> None:
        self._buffers: deque[memoryview] = deque()

    def __bool__(self) -> bool:
        return bool(self._buffers)

    def extend(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        self._buffers.extend(memoryview(buffer) for buffer in buffers if len(buffer))

    def write_to(self, sock: socket.socket) -> None:
        """Write as much as the socket takes. Raises OSError where the peer is gone."""
        while self._buffers:
            try:
                sent = sock.sendmsg(
                    [self._buffers[index] for index in range(min(len(self._buffers), self.MAX_BUFFERS))]
                )
            except BlockingIOError:
                return
            while sent:
                first = self._buffers[0]
                if sent < len(first):
                    self._buffers[0] = first[sent:]
                    sent = 0
                else:
                    sent -= len(first)
                    self._buffers.popleft()


def inherited_socket() -> socket.socket:
    """The socket that the parent left for this child."""
    return socket.socket(fileno=int(os.environ[LINK_VARIABLE]))
