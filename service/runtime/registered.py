"""Memory shared with frontends from which the GPU copies by itself: registered with CUDA piece by piece, as it is used.

Knows addresses, nothing of frontends or tensors. `worker.py` tells of memory that is mapped, `buffers.py` asks before
it lays rows. What was never asked for is not registered: a page that is registered exists, touched or not.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.runtime.fetching import Fetch

PIECE_BYTES = 4 * 1024 * 1024  # registered at once, in about half a millisecond

FEW = 8  # parts are looked for one by one

Register = Callable[[int, int], bool]
Numbers = npt.NDArray[np.uint64]
Pieces = tuple[Numbers, Numbers]  # where each begins and ends
NONE: Pieces = (np.array([], np.uint64), np.array([], np.uint64))


class Registered:
    """`covers(address, size)` says whether the GPU may copy from there, with `fetch`. Any thread may call all of it.

    `register(address, size)` and `unregister(address)` are CUDA's; what cannot be registered is copied as other memory.
    """

    def __init__(self, register: Register, unregister: Callable[[int], None], fetch: Fetch) -> None:
        self.fetch = fetch
        self._register = register
        self._unregister = unregister
        self._starts: list[int] = []
        self._known: dict[int, _Mapping] = {}
        self._pieces: Pieces | None = NONE  # all that are registered, in order; None: to be made anew
        self._changes = 0
        self._lock = threading.RLock()  # an owner may be collected within

    def __repr__(self) -> str:
        return f"<Registered {sum(len(each.pieces) for each in self._known.values())} pieces>"

    def add(self, owner: object, address: int, size: int) -> None:
        """Memory is mapped there for as long as `owner` lives."""
        with self._lock:
            self._known[address] = _Mapping(address, size, set())
            insort(self._starts, address)
        weakref.finalize(owner, self._remove, address).atexit = False

    def cover(self, addresses: Sequence[int], sizes: Sequence[int]) -> bool:
        """The same of many: whether the GPU may copy each."""
        if len(sizes) > FEW:
            starts, ends = self._pieces or self._list()
            if len(starts):
                places = np.array(addresses, np.uint64)
                at = np.searchsorted(starts, places, "right")
                if at.all() and (places + np.array(sizes, np.uint64) <= ends[at - 1]).all():
                    return True
        return all(map(self.covers, addresses, sizes))

    def covers(self, address: int, size: int) -> bool:
        """Whether these bytes lie within one piece that is registered; it is, where that can be done."""
        with self._lock:
            index = bisect_right(self._starts, address) - 1
            mapping = self._known[self._starts[index]] if index >= 0 else None
            if mapping is None or address + size > mapping.end or mapping.is_refused:
                return False
            place = address - mapping.address
            number = place // PIECE_BYTES
            if number != (place + size - 1) // PIECE_BYTES:
                return False
            if number not in mapping.pieces:
                begin = number * PIECE_BYTES
                length = min(PIECE_BYTES, mapping.size - begin)
                if not self._register(mapping.address + begin, length):
                    mapping.is_refused = True
                    return False
                mapping.pieces.add(number)
                self._changed()
            return True

    def _list(self) -> Pieces:
        with self._lock:
            changes = self._changes
            found = sorted(
                (begin := mapping.address + number * PIECE_BYTES, min(begin + PIECE_BYTES, mapping.end))
                for mapping in list(self._known.values())
                for number in list(mapping.pieces)
            )
            starts, ends = (np.array([each[side] for each in found], np.uint64) for side in (0, 1))
            if changes == self._changes:  # an owner may have been collected within
                self._pieces = starts, ends
            return starts, ends

    def _changed(self) -> None:
        self._changes += 1
        self._pieces = None

    def _remove(self, address: int) -> None:
        with self._lock:
            mapping = self._known.pop(address)
            self._starts.remove(address)
            self._changed()
        for number in mapping.pieces:
            self._unregister(address + number * PIECE_BYTES)


class _Mapping:
    """One stretch of memory, and which of its pieces are registered."""

    __slots__ = ("address", "is_refused", "pieces", "size")

    def __init__(self, address: int, size: int, pieces: set[int]) -> None:
        self.address = address
        self.size = size
        self.pieces = pieces
        self.is_refused = False

    @property
    def end(self) -> int:
        return self.address + self.size


def registered_with(runtime: Any, use: Callable[[], object]) -> Registered:
    """By the CUDA runtime that torch has loaded; `use()` makes the calling thread one of the right GPU."""

    def register(address: int, size: int) -> bool:
        use()
        code = runtime.cudaHostRegister(ctypes.c_void_p(address), ctypes.c_size_t(size), 0)
        if code:
            runtime.cudaGetLastError()  # or the next call of torch would be told of it
        return not code

    def unregister(address: int) -> None:
        use()
        if runtime.cudaHostUnregister(ctypes.c_void_p(address)):
            runtime.cudaGetLastError()

    return Registered(register, unregister, Fetch(runtime))
