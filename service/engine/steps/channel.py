"""One end of the socket between an engine and a process of steps: whole frames, sent and received by blocking.

Knows frames, no particular message. `process.py` has the engine's end, `worker.py` the other.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from service.engine.transport import FrameReader, frame

T = TypeVar("T")
Blob = bytes | bytearray | memoryview

LINK_VARIABLE = "TORCHERE_STEPS"  # the number of the socket that the process inherits
MAX_BUFFERS = 512  # well under Linux's IOV_MAX of 1024


class Channel(Generic[T]):
    """Any thread may send; one receives."""

    def __init__(self, sock: socket.socket, types: type[T]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = FrameReader(types)
        self._arrived: deque[tuple[T, memoryview]] = deque()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Channel {self._sock.fileno()}, {len(self._arrived)} arrived>"

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, message: msgspec.Struct, blobs: Sequence[Blob] = (), timeout_s: float | None = None) -> None:
        """Raises OSError where the peer is gone, TimeoutError (one of those) where it does not read."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        buffers = [memoryview(buffer) for buffer in frame(message, blobs) if len(buffer)]
        with self._lock:
            while buffers:
                try:
                    sent = self._sock.sendmsg(buffers[:MAX_BUFFERS])
                except BlockingIOError:
                    _wait(self._sock, select.POLLOUT, until)
                    continue
                while sent:
                    step = min(sent, len(buffers[0]))
                    buffers[0] = buffers[0][step:]
                    sent -= step
                    if not len(buffers[0]):
                        buffers.pop(0)

    def receive(self) -> tuple[T, memoryview]:
        """The next message and its tensors, waiting for it. Raises EOFError where the peer is gone."""
        while (found := self.receive_now()) is None:
            _wait(self._sock, select.POLLIN, None)
        return found

    def receive_now(self) -> tuple[T, memoryview] | None:
        """The next message if it is there. Raises EOFError where the peer is gone or does not speak this protocol."""
        if self._arrived:
            return self._arrived.popleft()
        try:
            count = self._sock.recv_into(self._reader.buffer())
            if not count:
                raise EOFError
            self._arrived.extend(self._reader.received(count))
        except BlockingIOError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise EOFError(str(error)) from error
        return self._arrived.popleft() if self._arrived else None


def _wait(sock: socket.socket, what: int, until: float | None) -> None:
    """Return when the socket is ready for `what`. Raises TimeoutError."""
    poll = select.poll()
    poll.register(sock, what)
    left_ms = None if until is None else max(0.0, until - time.monotonic()) * 1e3
    if not poll.poll(left_ms):
        raise TimeoutError("the process does not read what it is sent")
