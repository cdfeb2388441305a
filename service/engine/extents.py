"""Which parts of a stretch of memory are free. They are taken in powers of two; what was given back last goes first.

Pure: numbers only. `arena.py` has the memory. What is taken of a part and never touched costs no memory, so that the
round sizes waste nothing but addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST_BYTES = 16 * 1024  # a whole number of pages, so that every part begins at one
LARGEST_SHARE = 4  # one part is at most this part of the whole, or a few would push out all others


@dataclass(frozen=True, slots=True)
class Extent:
    """`1 << order` bytes from `place` on."""

    place: int
    order: int


class Extents:
    """The parts of `byte_size` bytes. Free neighbours become one again only where something larger finds no room."""

    def __init__(self, byte_size: int) -> None:
        self.byte_size = byte_size - byte_size % SMALLEST_BYTES
        self.largest = self.byte_size // LARGEST_SHARE
        self.taken_bytes = 0
        self._free: list[list[int]] = [[] for _ in range(self.byte_size.bit_length())]
        self._given_bytes = 0  # since neighbours were joined last
        place = 0
        while place < self.byte_size:
            order = (self.byte_size - place).bit_length() - 1
            self._free[order].append(place)
            place += 1 << order

    def __repr__(self) -> str:
        return f"<Extents {self.taken_bytes} of {self.byte_size} bytes>"

    def take(self, size: int) -> Extent | None:
        """A part of at least `size` bytes; None where there is no room."""
        if size > self.largest:
            return None
        order = (max(size, SMALLEST_BYTES) - 1).bit_length()
        place = self._find(order)
        if place is None and self._given_bytes >= size:
            self._join()
            place = self._find(order)
        if place is None:
            return None
        self.taken_bytes += 1 << order
        return Extent(place, order)

    def give(self, extent: Extent) -> None:
        """It is free again."""
        size = 1 << extent.order
        self.taken_bytes -= size
        self._given_bytes += size
        self._free[extent.order].append(extent.place)

    def _find(self, order: int) -> int | None:
        """What was given back last of this size; or else the beginning of the smallest that is larger."""
        for larger in range(order, len(self._free)):
            if self._free[larger]:
                place = self._free[larger].pop()
                for half in range(larger - 1, order - 1, -1):
                    self._free[half].append(place + (1 << half))
                return place
        return None

    def _join(self) -> None:
        self._given_bytes = 0
        for order in range(len(self._free) - 1):
            size, free = 1 << order, set(self._free[order])
            joined = {place for place in free if not place & size and place + size in free}
            if joined:
                self._free[order] = [place for place in self._free[order] if place & ~size not in joined]
                self._free[order + 1].extend(joined)
