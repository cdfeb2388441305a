"""The engine's end of the data sockets: one thread reads what all frontends send; answers are written where they arise.

Knows frames, not models: `worker.py` is told of each message, `transport.py` does the framing.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Sequence
from typing import Protocol

import msgspec

from service.engine.link import OutgoingBuffers
from service.engine.messages import Cancel, Failure, Infer, Result, Took
from service.engine.transport import FrameReader, frame, joined

log = logging.getLogger("torchere.engine")

SOCKET_BUFFER_BYTES = (
    4 * 1024 * 1024
)  # a few large answers fit, so that a model's thread seldom has to leave some behind


BEAT_S = 1.0  # at least so often, with nothing to read


class Receiver(Protocol):
    """Who gets what arrives; called on the listener's thread. `beat` is called at least every second."""

    def beat(self) -> None: ...
    def handle(self, message: Infer | Cancel | Took, body: memoryview, connection: DataConnection) -> None: ...
    def forget(self, connection: DataConnection) -> None: ...


class DataConnection:
    """One frontend. `send` may be called by any thread and never blocks: what does not fit is written later."""

    def __init__(self, sock: socket.socket, listener: Listener) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        self.sock = sock
        self.reader: FrameReader[Infer | Cancel | Took] = FrameReader(Infer | Cancel | Took)  # type: ignore[arg-type]
        self._listener = listener
        self._outgoing = OutgoingBuffers()
        self._lock = threading.Lock()

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None:
        """Write the answers in one go."""
        buffers = joined([buffer for message, blobs in answers for buffer in frame(message, blobs)])
        with self._lock:
            waits_already = bool(self._outgoing)
            self._outgoing.extend(buffers)
            if not waits_already:
                self._write()
            if self._outgoing and not waits_already:
                self._listener.watch_writable(self)

    def resume(self) -> bool:
        """Write what was left behind; True when nothing is left."""
        with self._lock:
            self._write()
            return not self._outgoing

    def _write(self) -> None:
        try:
            self._outgoing.write_to(self.sock)
        except OSError:  # the frontend is gone: the reading side notices and cleans up
            self._outgoing = OutgoingBuffers()


class Listener:
    """Accepts frontends on a Unix socket and reads from all of them in one thread."""

    def __init__(self, path: str, receiver: Receiver) -> None:
        self._receiver = receiver
        self._poll = select.epoll()  # without `selectors`, whose objects cost as much as the call
        self._connections: dict[int, DataConnection] = {}
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(path)
        self._listening.listen(64)
        self._listening.setblocking(False)
        self._poll.register(self._listening, select.EPOLLIN)
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._poll.register(self._woken, select.EPOLLIN)
        self._blocked: list[DataConnection] = []

    def start(self) -> None:
        """Read in a thread of its own until the process ends."""
        threading.Thread(target=self._read_all, name="listener", daemon=True).start()

    def watch_writable(self, connection: DataConnection) -> None:
        """Let the listener's thread write what `connection` could not; from any thread."""
        self._blocked.append(connection)
        self._wake.send(b"w")

    def _read_all(self) -> None:
        while True:
            self._receiver.beat()
            for number, events in self._poll.poll(BEAT_S):
                connection = self._connections.get(number)
                if connection is not None:
                    self._serve(connection, number, events)
                elif number == self._listening.fileno():
                    self._accept()
                else:
                    self._watch_blocked()

    def _accept(self) -> None:
        sock, _ = self._listening.accept()
        self._connections[sock.fileno()] = DataConnection(sock, self)
        self._poll.register(sock, select.EPOLLIN)

    def _watch_blocked(self) -> None:
        self._woken.recv(4096)
        blocked, self._blocked = self._blocked, []
        for connection in blocked:
            if connection.sock.fileno() >= 0:
                self._poll.modify(connection.sock, select.EPOLLIN | select.EPOLLOUT)

    def _serve(self, connection: DataConnection, number: int, events: int) -> None:
        if events & select.EPOLLOUT and connection.resume():
            self._poll.modify(number, select.EPOLLIN)
        if events & ~select.EPOLLOUT and not self._read(connection):  # what ends it is to be read, too
            self._poll.unregister(number)
            del self._connections[number]
            connection.sock.close()
            self._receiver.forget(connection)

    def _read(self, connection: DataConnection) -> bool:
        """False when the frontend is gone, or does not speak this protocol."""
        try:
            count = connection.sock.recv_into(connection.reader.buffer())
            for message, body in connection.reader.received(count):
                self._receiver.handle(message, body, connection)
        except BlockingIOError:
            return True
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("a frontend's connection broke: %s", error)
            return False
        return count > 0
