"""The engine's end of the data sockets: one thread reads what all frontends send; answers are written where they arise.

Knows frames, not models: `worker.py` is told of each message, `transport.py` does the framing.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from array import array
from collections.abc import Sequence
from typing import Protocol

import msgspec

from service.busy_poll import Vigil
from service.engine.arena import Guest
from service.engine.counting import Count, Counted
from service.engine.lending import EngineEnd, Hello, Returned
from service.engine.link import OutgoingBuffers
from service.engine.messages import Cancel, Failure, Infer, Result, Took
from service.engine.transport import FrameReader, frame, joined

log = logging.getLogger("torchere.engine")

SOCKET_BUFFER_BYTES = (
    4 * 1024 * 1024
)  # a few large answers fit, so that a model's thread seldom has to leave some behind


BEAT_S = 1.0  # at least so often, with nothing to read
AT_ONCE = 64  # connections that are read in one turn
FILES_BYTES = socket.CMSG_SPACE(2 * array("i").itemsize)

Data = Infer | Cancel | Took | Hello | Returned | Count


class Receiver(Protocol):
    """Who gets what arrives; called on the listener's thread. `beat` is called at least every second.

    `is_alone`: nothing came with it, so this thread has nothing else to read for the moment.
    """

    def beat(self) -> None: ...
    def handle(
        self, message: Infer | Cancel | Took, body: memoryview, connection: DataConnection, is_alone: bool
    ) -> None: ...
    def forget(self, connection: DataConnection) -> None: ...
    def shares(self, guest: Guest) -> None: ...
    def count(self) -> None: ...


class DataConnection:
    """One frontend. `send` may be called by any thread and never blocks: what does not fit is written later."""

    def __init__(self, sock: socket.socket, listener: Listener) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        self.sock = sock
        self.reader: FrameReader[Data] = FrameReader(Data)  # type: ignore[arg-type]
        self.memory: EngineEnd | None = None  # what it shares
        self._files: list[int] | None = None  # that came with its first words; None: nothing came yet
        self._listener = listener
        self._outgoing = OutgoingBuffers()
        self._lock = threading.Lock()

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None:
        """Write the answers in one go."""
        if threading.get_ident() == self._listener.thread:
            self._listener.has_answered = True
        make = frame if self.memory is None else self.memory.frame
        self._send(joined([buffer for message, blobs in answers for buffer in make(message, blobs)]))

    def receive(self) -> int:
        """Read what has come into the reader's buffer; how many bytes. Raises BlockingIOError, OSError."""
        if self._files is not None:
            return self.sock.recv_into(self.reader.buffer())
        count, ancillary, _, _ = self.sock.recvmsg_into([self.reader.buffer()], FILES_BYTES, socket.MSG_CMSG_CLOEXEC)
        self._files = []
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._files += array("i", data[: len(data) - len(data) % array("i").itemsize])
        return count

    def meet(self, hello: Hello) -> EngineEnd:
        """Share the memory that came with it. Raises ValueError where it is not as announced, or came twice."""
        files, self._files = self._files or [], []
        self.memory = EngineEnd(hello, files)
        self.reader.read_lent = self.memory.read
        return self.memory

    def cancelled(self, request_id: int) -> None:
        """A request has been taken back: it may still be read."""
        if self.memory is not None:
            self.memory.cancelled(request_id)

    def say_dropped(self) -> None:
        """Tell of requests that were taken back and are not read any more."""
        if self.memory is not None and (buffers := self.memory.dropped()):
            self._send(buffers)

    def say_counted(self, number: int) -> None:
        """All that was answered has been counted."""
        self._send(frame(Counted(number)))

    def close(self) -> None:
        self.sock.close()
        for file in self._files or ():
            os.close(file)

    def _send(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
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
    """Accepts frontends on a Unix socket and reads from all of them in one thread.

    Where `busy_poll_us` is not None, only what did not wait already is called alone; and after such a request that was
    answered by the thread that reads, this looks for the next one for so long. After others it sleeps: whoever runs
    them needs Python's lock, and to be let in takes as long as to be woken.
    """

    def __init__(self, path: str, receiver: Receiver, busy_poll_us: int | None = None) -> None:
        self._receiver = receiver
        self._vigil = Vigil(1000 * busy_poll_us) if busy_poll_us is not None else None
        self._is_calm = True  # nothing waited when this thread came back to read
        self.thread = 0
        self.has_answered = False  # in this thread, since it read last
        self.looks = 0  # in vain
        self._poll = select.epoll()  # without `selectors`, whose objects cost as much as the call
        self._connections: dict[int, DataConnection] = {}
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(path)
        self._listening.listen(64)
        self._listening.setblocking(False)
        self._poll.register(self._listening, select.EPOLLIN)
        self._deaf_until = 0.0  # to who connects: there were no descriptors left
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
        self.thread = threading.get_ident()
        while True:
            self._receiver.beat()
            if self._deaf_until and time.monotonic() >= self._deaf_until:
                self._deaf_until = 0.0
                self._poll.modify(self._listening, select.EPOLLIN)
            ready = self._poll.poll(BEAT_S) if self._vigil is None else self._look(self._vigil)
            if not ready:
                for idle in self._connections.values():
                    idle.say_dropped()
            for number, events in ready:
                connection = self._connections.get(number)
                if connection is not None:
                    self._serve(connection, number, events)
                elif number == self._listening.fileno():
                    self._accept()
                else:
                    self._watch_blocked()

    def _look(self, vigil: Vigil) -> list[tuple[int, int]]:
        """What is ready, at the latest after a beat."""
        ready = self._poll.poll(0, AT_ONCE)
        self._is_calm = not ready
        if self._is_calm:
            until = vigil.begin(time.monotonic_ns()) if self.has_answered else 0
            while not ready and time.monotonic_ns() < until:
                self.looks += 1
                ready = self._poll.poll(0, AT_ONCE)
            ready = ready or self._poll.poll(BEAT_S, AT_ONCE)
            vigil.end(time.monotonic_ns())
            self._is_calm = len(ready) == 1
        self.has_answered = False
        return ready

    def _accept(self) -> None:
        try:
            sock, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has left again
        except OSError as error:
            log.warning("a frontend cannot be let in: %s; it is tried again in %.0f s", error, BEAT_S)
            self._poll.modify(self._listening, 0)
            self._deaf_until = time.monotonic() + BEAT_S
            return
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
            connection.close()
            self._receiver.forget(connection)

    def _read(self, connection: DataConnection) -> bool:
        """False when the frontend is gone, or does not speak this protocol."""
        try:
            count = connection.receive()
            is_alone = self._is_calm and connection.reader.is_alone(count)
            for message, body in connection.reader.received(count):
                self._handle(message, body, connection, is_alone)
            connection.say_dropped()
        except BlockingIOError:
            return True
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            log.warning("a frontend's connection broke: %s", error)
            return False
        return count > 0

    def _handle(self, message: Data, body: memoryview, connection: DataConnection, is_alone: bool) -> None:
        match message:
            case Infer() | Took():
                self._receiver.handle(message, body, connection, is_alone)
            case Cancel():
                self._receiver.handle(message, body, connection, is_alone)
                connection.cancelled(message.id)
            case Returned() if connection.memory is not None:
                connection.memory.returned(message)
            case Count(number):
                self._receiver.count()
                connection.say_counted(number)
            case Hello():
                self._receiver.shares(connection.meet(message).guest)
