"""Large tensors between a frontend and an engine lie in memory that both see; the frame says only where.

Each side has an end: a frontend owns one arena for what it sends to all engines, an engine owns the one for its answers
to one connection, which the frontend makes for it. Knows no sockets: `client.py` and `listener.py` carry what it makes.

What a frontend lends is free again with the answer. A request that is cancelled may still be read, so the engine says
`Dropped` when it has no view of it any more. What an engine lends is free again when the frontend says `Returned`.
Whatever finds no room travels in the frame. When either side dies, the other has all of its own arena again.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from service.engine.arena import Arena, Guest, Loan, make_memory
from service.engine.messages import Message
from service.engine.transport import frame, lent_frame

LENT_BYTES = 16 * 1024  # below, saying where it is costs as much as sending it
INLINE = 2**64 - 1  # the place of what follows in the frame
HEAD = struct.Struct("<QI")  # ticket, how many tensors
PLACE = struct.Struct("<QQ")  # place, size

Buffer = bytes | bytearray | memoryview


class Hello(Message, frozen=True):
    """A frontend's first word: the files of two arenas come with it, of so many bytes, for inputs and for outputs."""

    input_bytes: int
    output_bytes: int


class Dropped(Message, frozen=True):
    """Of request `id`, which was cancelled, the engine sees nothing any more."""

    id: int


class Returned(Message, frozen=True):
    """Of the answers with these tickets the frontend sees nothing any more."""

    tickets: tuple[int, ...]


def laid(blobs: Sequence[Buffer], arena: Arena) -> Sequence[Buffer] | None:
    """The same tensors, those that are large in the arena where there is room; None where none is."""
    found, is_any = [], False
    for blob in blobs:
        if len(blob) >= LENT_BYTES:
            if arena.place_of(blob) is not None:
                is_any = True
            elif (copy := arena.put(blob)) is not None:
                blob, is_any = copy, True
        found.append(blob)
    return found if is_any else None


def describe(ticket: int, blobs: Sequence[Buffer], arena: Arena) -> list[Buffer]:
    """The body of a lent frame: where each tensor lies, and those that lie nowhere else."""
    parts: list[bytes] = [HEAD.pack(ticket, len(blobs))]
    inline: list[Buffer] = []
    for blob in blobs:
        place = arena.place_of(blob) if len(blob) >= LENT_BYTES else None
        parts.append(PLACE.pack(INLINE if place is None else place, len(blob)))
        if place is None:
            inline.append(blob)
    return [b"".join(parts), *inline]


def ticket_of(body: memoryview) -> int:
    """Of a lent frame. Raises ValueError."""
    if len(body) < HEAD.size:
        raise ValueError(f"{len(body)} bytes do not say where tensors lie")
    ticket: int = HEAD.unpack_from(body)[0]
    return ticket


def read(body: memoryview, guest: Guest, told: Callable[[int], None]) -> list[memoryview]:
    """The tensors of a lent frame; `told` is called when they are seen no more. Raises ValueError where it is wrong."""
    ticket, count = HEAD.unpack_from(body)
    if count == 1 and len(body) == HEAD.size + PLACE.size:  # as most are
        place, size = PLACE.unpack_from(body, HEAD.size)
        if place != INLINE:
            return [guest.view(place, size, Loan(ticket, told))]
    at = HEAD.size + count * PLACE.size
    if at > len(body):
        raise ValueError(f"{len(body)} bytes do not say where {count} tensors lie")
    loan, tensors = Loan(ticket, told), []
    for place, size in PLACE.iter_unpack(body[HEAD.size : at]):
        if place == INLINE:
            tensors.append(body[at : at + size])
            at += size
        else:
            tensors.append(guest.view(place, size, loan))
    return tensors


class EngineEnd:
    """The engine's end of one connection. One thread calls `read` and `cancelled`, any thread the others."""

    def __init__(self, hello: Hello, files: Sequence[int]) -> None:
        """Raises ValueError where the memory is not as announced. The files are closed."""
        try:
            if len(files) != 2:
                raise ValueError(f"two files of shared memory were announced, {len(files)} came")
            self.guest = Guest(files[0], hello.input_bytes)
            self._arena = Arena(files[1], hello.output_bytes)
        finally:
            for file in files:
                os.close(file)
        self._seen: set[int] = set()  # requests of whose tensors there are views
        self._cancelled: set[int] = set()
        self._dropped: deque[int] = deque()
        self._lent: dict[int, Sequence[Buffer]] = {}
        self._tickets = itertools.count(1)

    def __repr__(self) -> str:
        return f"<EngineEnd {len(self._seen)} seen, {self._arena!r}>"

    @property
    def lent_bytes(self) -> int:
        """What answers have in use that the frontend sees."""
        return self._arena.taken_bytes

    def read(self, body: memoryview) -> list[memoryview]:
        """The tensors of a request. Raises ValueError."""
        self._seen.add(ticket_of(body))
        return read(body, self.guest, self._gone)

    def frame(self, message: msgspec.Struct, blobs: Sequence[Buffer]) -> list[Buffer]:
        """The buffers to write for an answer."""
        for blob in blobs:
            if len(blob) >= LENT_BYTES:
                break
        else:
            return frame(message, blobs)
        lent = laid(blobs, self._arena)
        if lent is None:
            return frame(message, blobs)
        ticket = next(self._tickets)
        self._lent[ticket] = lent
        return lent_frame(message, describe(ticket, lent, self._arena))

    def returned(self, message: Returned) -> None:
        """The frontend has let go of these."""
        for ticket in message.tickets:
            self._lent.pop(ticket, None)

    def cancelled(self, request_id: int) -> None:
        """The frontend waits for a word on what this request saw, or an answer to it."""
        self._cancelled.add(request_id)
        if request_id not in self._seen:
            self._drop(request_id)

    def dropped(self) -> list[Buffer]:
        """What there is to say of cancelled requests."""
        buffers: list[Buffer] = []
        while self._dropped:
            buffers += frame(Dropped(self._dropped.popleft()))
        return buffers

    def _gone(self, request_id: int) -> None:
        """Called wherever the last view goes, in the middle of anything."""
        self._seen.discard(request_id)
        if request_id in self._cancelled:
            self._drop(request_id)

    def _drop(self, request_id: int) -> None:
        self._cancelled.discard(request_id)
        self._dropped.append(request_id)


class FrontendEnd:
    """A frontend's end of one connection: what it lends lies in `arena`, and stays until the engine has done with it.

    Views of answers may go in any thread, all else is the loop's.
    """

    def __init__(self, arena: Arena, outputs: Guest, tell: Callable[[Returned], None]) -> None:
        self._arena = arena
        self._guest = outputs
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lent: dict[int, Sequence[Buffer]] = {}  # by request
        self._returned: deque[int] = deque()
        self._is_due = False  # to say so

    def __repr__(self) -> str:
        return f"<FrontendEnd {len(self._lent)} lent>"

    def lend(self, request_id: int, blobs: Sequence[Buffer]) -> list[Buffer] | None:
        """The body of a frame that says where these tensors lie; None: send them in it."""
        lent = laid(blobs, self._arena)
        if lent is None:
            return None
        self._lent[request_id] = lent
        return describe(request_id, lent, self._arena)

    def read(self, body: memoryview) -> list[memoryview]:
        """The tensors of an answer. Raises ValueError."""
        ticket_of(body)
        return read(body, self._guest, self._gone)

    def settled(self, request_id: int) -> None:
        """The engine has answered it, or sees nothing of it any more."""
        self._lent.pop(request_id, None)

    def lost(self) -> None:
        """The engine is no more."""
        self._lent.clear()

    def _gone(self, ticket: int) -> None:
        """Called wherever the last view goes, in the middle of anything."""
        self._returned.append(ticket)
        if self._is_due or self._loop.is_closed():
            return
        self._is_due = True
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._say)
        else:
            self._loop.call_soon_threadsafe(self._say)

    def _say(self) -> None:
        self._is_due = False  # first: what comes while this goes on is said now or the next time
        tickets = []
        while self._returned:
            tickets.append(self._returned.popleft())
        self._tell(Returned(tuple(tickets)))


class Lender:
    """What one frontend shares with all engines."""

    def __init__(self, byte_size: int) -> None:
        """Raises OSError where there is no such memory."""
        self._file = make_memory(byte_size)
        weakref.finalize(self, os.close, self._file)
        self._byte_size = byte_size
        self.arena = Arena(self._file, byte_size)

    def __repr__(self) -> str:
        return f"<Lender {self.arena!r}>"

    def greet(self, sock: socket.socket, tell: Callable[[Returned], None]) -> FrontendEnd:
        """Say hello on a new connection. `tell` is given what its engine should know. Raises OSError."""
        outputs = make_memory(self._byte_size)
        try:
            hello = frame(Hello(self._byte_size, self._byte_size))
            socket.send_fds(sock, [b"".join(hello)], [self._file, outputs])
            return FrontendEnd(self.arena, Guest(outputs, self._byte_size), tell)
        finally:
            os.close(outputs)
