"""Frames on a Unix socket: a message and the tensors that follow it. Reads without copying large tensors twice.

Knows the messages only as things to encode. `client.py` (frontends) and `worker.py` (engines) use it for data,
`link.py` for the words of parent and children.

A frame is `uint32 header length, uint64 body length`, the message as msgpack, and the tensors one after the other.
Where the first number has its highest bit set, the body says where tensors lie, as `lending.py` has it.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, cast

import msgspec

PREFIX = struct.Struct("<IQ")
SCRATCH_BYTES = 256 * 1024  # one read of a busy socket brings a few hundred small requests
OWN_BYTES = 32 * 1024  # a frame from here on is read into memory of its own: two copies less, under the lock
MAX_HEADER_BYTES = 64 * 1024 * 1024  # a snapshot of a thousand models with labels takes a few MB
JOIN_BYTES = 64 * 1024  # so much is one buffer, however it came; and also more
JOIN_PIECE_BYTES = 8 * 1024  # where pieces are smaller than this on average
LENT = 1 << 31  # added to the header's length
MAX_ID, MAX_DEADLINE = 2**64 - 1, sys.float_info.max
FLOAT = struct.Struct(">d")
ID_MARK = b"\xcf" + MAX_ID.to_bytes(8, "big")  # all three as msgpack has them
DEADLINE_MARK = b"\xcb" + FLOAT.pack(MAX_DEADLINE)
NONE = b"\xc0"

T = TypeVar("T")
Blob = bytes | bytearray | memoryview

_encoder = msgspec.msgpack.Encoder()


def frame(
    message: msgspec.Struct, blobs: Sequence[bytes | bytearray | memoryview] = ()
) -> list[bytes | bytearray | memoryview]:
    """The buffers to write for one frame, tensors uncopied."""
    header = _encoder.encode(message)
    body = 0
    for blob in blobs:
        body += len(blob)
    return [PREFIX.pack(len(header), body) + header, *blobs]


def lent_frame(message: msgspec.Struct, body: Sequence[Blob]) -> list[Blob]:
    """The same for a body that says where tensors lie."""
    header = _encoder.encode(message)
    return [PREFIX.pack(len(header) + LENT, sum(map(len, body))) + header, *body]


def joined(buffers: list[bytes | bytearray | memoryview]) -> list[bytes | bytearray | memoryview]:
    """The same bytes to write: as one buffer where there are few, for a copy costs less than a piece of a write."""
    if len(buffers) > 1 and sum(map(len, buffers)) <= max(JOIN_BYTES, JOIN_PIECE_BYTES * len(buffers)):
        return [b"".join(buffers)]
    return buffers


class FrameTemplate:
    """The frames of messages that are equal but for their `id` and `deadline`, and of bodies of one size: encoded once.

    Both are replaced by the largest numbers there are, whose nine bytes show where they belong.
    """

    __slots__ = ("_after", "_before", "_between", "_bounded_after", "_bounded_before", "body_size")

    def __init__(self, message: msgspec.Struct, body_size: int) -> None:
        header = _encoder.encode(msgspec.structs.replace(message, id=MAX_ID, deadline=MAX_DEADLINE))
        before, found, rest = header.partition(ID_MARK)
        between, also_found, after = rest.partition(DEADLINE_MARK)
        assert found, "a message has an id"
        assert also_found, "it has a deadline behind it"
        assert ID_MARK not in rest, "only the id is so large"
        assert DEADLINE_MARK not in after, "only the deadline is so late"
        before += ID_MARK[:1]
        bounded_size = len(header)
        self._bounded_before = PREFIX.pack(bounded_size, body_size) + before
        self._between, self._bounded_after = between + DEADLINE_MARK[:1], after
        self._before = PREFIX.pack(bounded_size - len(DEADLINE_MARK) + len(NONE), body_size) + before
        self._after = between + NONE + after
        self.body_size = body_size

    def begin(self, number: int, deadline: float | None = None) -> bytes:
        """What the frame of this id begins with; the tensors follow it."""
        if deadline is None:
            return self._before + number.to_bytes(8, "big") + self._after
        until = FLOAT.pack(deadline)
        return self._bounded_before + number.to_bytes(8, "big") + self._between + until + self._bounded_after

    def lent(self, number: int, body: Sequence[Blob], deadline: float | None = None) -> list[Blob]:
        """The frame of this id whose body says where its tensors lie."""
        header = self.begin(number, deadline)[PREFIX.size :]
        return [PREFIX.pack(len(header) + LENT, sum(map(len, body))) + header, *body]


class FrameReader(Generic[T]):
    """Fill `buffer()` from a socket, tell `received(count)`: it yields each whole (message, body) that has arrived.

    A large frame gets a buffer of its own, which its tensors then keep alive; small ones are copied out of the scratch
    buffer. `read_lent` gives the tensors of a body that says where they lie: a list in place of the bytes, as `split`
    takes it too. Raises msgspec.DecodeError or ValueError where the peer does not speak this protocol.
    """

    def __init__(self, types: type[T], read_lent: Callable[[memoryview], list[memoryview]] | None = None) -> None:
        self.read_lent = read_lent
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(types)
        self._scratch = bytearray(SCRATCH_BYTES)
        self._target = self._scratch
        self._filled = 0

    def buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""
        return memoryview(self._target)[self._filled :]

    def is_alone(self, count: int) -> bool:
        """Whether one whole frame has come with `count` new bytes, and no part of another. Ask before `received`."""
        filled = self._filled + count
        if self._target is not self._scratch:
            return filled == len(self._target)
        if filled < PREFIX.size:
            return False
        header_size, body_size = PREFIX.unpack_from(self._scratch)
        return bool(PREFIX.size + (header_size & ~LENT) + body_size == filled)

    def received(self, count: int) -> Iterator[tuple[T, memoryview]]:
        """Take note of `count` new bytes and yield what is complete."""
        self._filled += count
        if self._target is not self._scratch:
            if self._filled == len(self._target):
                whole = memoryview(self._target)
                self._target, self._filled = self._scratch, 0
                header_size, _ = PREFIX.unpack_from(whole)
                yield self._decode(whole, header_size)
            return
        view, at = memoryview(self._scratch), 0
        while self._filled - at >= PREFIX.size:
            header_size, body_size = PREFIX.unpack_from(view, at)
            if header_size & ~LENT > MAX_HEADER_BYTES:
                raise ValueError(f"a message of {header_size} bytes is not one of ours")
            total = PREFIX.size + (header_size & ~LENT) + body_size
            if self._filled - at < total:
                if total > OWN_BYTES:
                    self._target = bytearray(total)
                break
            whole = view[at : at + total]
            # What is large stays writable: torch takes it as it is, where a batch is laid.
            yield self._decode(memoryview(bytes(whole) if total <= OWN_BYTES else bytearray(whole)), header_size)
            at += total
        rest = bytes(view[at : self._filled])
        self._target[: len(rest)] = rest
        self._filled = len(rest)

    def _decode(self, whole: memoryview, header_size: int) -> tuple[T, memoryview]:
        if header_size < LENT:
            start = PREFIX.size + header_size
            return self._decoder.decode(whole[PREFIX.size : start]), whole[start:]
        start = PREFIX.size + header_size - LENT
        if self.read_lent is None:
            raise ValueError("a message speaks of memory that was not shared")
        tensors = cast(memoryview, self.read_lent(whole[start:]))  # only who shares memory gets such
        return self._decoder.decode(whole[PREFIX.size : start]), tensors


def split(body: memoryview | list[memoryview], sizes: Sequence[int]) -> list[memoryview]:
    """The tensors of a body, by their sizes in bytes. Raises ValueError where one has another."""
    if isinstance(body, list):
        if [len(part) for part in body] != list(sizes):
            raise ValueError("tensors in shared memory have other sizes than their message says")
        return body
    if len(sizes) == 1:
        return [body]
    parts, at = [], 0
    for size in sizes:
        parts.append(body[at : at + size])
        at += size
    return parts
