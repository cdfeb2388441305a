"""How to wait for a GPU: awake for what is short, asleep for what takes longer.

Pure: knows no GPU. `cuda.py` asks it before it waits, and tells it how long the work took.
"""

from __future__ import annotations

LONG_NS = 1_000_000  # from 1 ms on, the some 20 µs of waking up are worth less than the core that spinning would burn


class Patience:
    """What calls took, by the size of their inputs to the next power of two."""

    def __init__(self) -> None:
        self._took_ns: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Patience {self._took_ns}>"

    def is_long(self, size: int) -> bool:
        """Whether a call with so many bytes of inputs is better slept through."""
        return self._took_ns.get(size.bit_length(), 0) >= LONG_NS

    def took(self, size: int, nanoseconds: int) -> None:
        """One such call took so long."""
        self._took_ns[size.bit_length()] = nanoseconds
