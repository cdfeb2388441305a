"""Memory that two processes share: one owns it and lends parts of it, the other looks at them and says when it is done.

Knows no sockets and no messages; `lending.py` does, `extents.py` finds the room. Nothing has to be given back by hand:
a part is free again when the last view of it is gone, and all of it with the process that has it.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from service.engine.extents import Extent, Extents

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MUST_HAVE = fcntl.F_SEAL_SHRINK  # reading what was cut off would kill the process
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
COPY_APART_BYTES = 1 << 20  # a copy from here on leaves the interpreter's lock to others


class Lease(Bytes):
    """A part of an arena that is in use: views of its bytes keep it, and the last one gives it back."""

    arena: Arena
    extent: Extent

    def __del__(self) -> None:
        self.arena.given.append(self.extent)


def make_memory(byte_size: int) -> int:
    """The file of memory to be shared; it is sealed, and takes what is touched of it. Raises OSError."""
    file = os.memfd_create("torchere", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, byte_size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        os.close(file)
        raise
    return file


def map_memory(file: int, byte_size: int) -> mmap.mmap:
    """What is in such a file. Raises ValueError where it is not what it is said to be."""
    try:
        if fcntl.fcntl(file, fcntl.F_GET_SEALS) & MUST_HAVE != MUST_HAVE:
            raise ValueError("memory that is shared must be sealed against shrinking")
        if not 0 < byte_size <= os.fstat(file).st_size:
            raise ValueError(f"memory of {byte_size} bytes was announced, {os.fstat(file).st_size} are there")
        return mmap.mmap(file, byte_size)
    except OSError as error:
        raise ValueError(f"what was sent is not memory to be shared: {error}") from error


class Arena:
    """The owner's side. Any thread may take a part, and let go of one.

    `take(size)` is None where there is no room: nobody waits for it, tensors then travel in their message.
    """

    def __init__(self, file: int, byte_size: int) -> None:
        """Raises ValueError where `file`, which is left open, is not such memory."""
        self._memory = map_memory(file, byte_size)
        self._extents = Extents(byte_size)
        self._address = address_of(memoryview(self._memory))
        self._lock = threading.Lock()
        self.given: deque[Extent] = deque()  # without the lock, for a view may go while this thread has it

    def __repr__(self) -> str:
        return f"<Arena {self._extents!r}>"

    @property
    def taken_bytes(self) -> int:
        """What is in use, in the sizes in which it is taken."""
        with self._lock:
            self._collect()
            return self._extents.taken_bytes

    def take(self, size: int) -> memoryview | None:
        """`size` bytes to write to, whatever they hold now."""
        with self._lock:
            self._collect()
            extent = self._extents.take(size)
        if extent is None:
            return None
        lease = Lease((size,), np.uint8, self._memory, extent.place)
        lease.arena, lease.extent = self, extent
        return memoryview(lease)  # type: ignore[arg-type]

    def put(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """A copy of `data`, which is not empty."""
        view = self.take(len(data))
        if view is None:
            return None
        if len(data) < COPY_APART_BYTES:
            view[:] = data
        else:
            np.copyto(np.frombuffer(view, np.uint8), np.frombuffer(data, np.uint8))
        return view

    def place_of(self, blob: bytes | bytearray | memoryview) -> int | None:
        """Where `blob` lies, None where it is none of a lease's bytes."""
        lease: object = blob.obj if type(blob) is memoryview else None
        if type(lease) is not Lease or lease.arena is not self:
            return None
        assert isinstance(blob, memoryview), "bytes are no lease's"
        return address_of(blob) - self._address

    def _collect(self) -> None:
        while self.given:
            self._extents.give(self.given.popleft())


def address_of(view: memoryview) -> int:
    """Where its bytes lie in this process; there is one at least, and they may be written."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


class Loan:
    """What was lent for one message: its ticket is told when the last view of it is gone, wherever that happens."""

    __slots__ = ("_ticket", "_told")

    def __init__(self, ticket: int, told: Callable[[int], None]) -> None:
        self._ticket = ticket
        self._told = told

    def __del__(self) -> None:
        self._told(self._ticket)


class Seen(Bytes):
    """Bytes of a guest's view, which keep it."""

    loan: Loan
    guest: Guest
    address: int


class Guest:
    """The other side: views of what the owner lends. The memory stays while it is seen."""

    def __init__(self, file: int, byte_size: int) -> None:
        """Raises ValueError where `file`, which is left open, is not such memory."""
        self._memory = map_memory(file, byte_size)
        self._address = address_of(memoryview(self._memory))
        self._byte_size = byte_size

    @property
    def span(self) -> tuple[int, int]:
        """Where it is mapped for as long as there is this guest, and how many bytes."""
        return self._address, self._byte_size

    def __repr__(self) -> str:
        return f"<Guest {self._byte_size} bytes>"

    def view(self, place: int, size: int, loan: Loan) -> memoryview:
        """`size` bytes from `place` on; they hold the loan. Raises ValueError where they are not all there."""
        if place + size > self._byte_size:
            raise ValueError(
                f"{size} bytes from {place} on end beyond the memory that is shared, of {self._byte_size} bytes"
            )
        seen = Seen((size,), np.uint8, self._memory, place)
        seen.loan, seen.guest, seen.address = loan, self, self._address + place
        return memoryview(seen)  # type: ignore[arg-type]
