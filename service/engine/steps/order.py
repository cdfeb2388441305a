"""Keeps what belongs to one sequence in the order in which it came, though its steps may end in another.

Pure. `stepped.py` asks it what may go to the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Order(Generic[T]):
    """`began` in order, `ready` in any: it gives what may go on now."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[T]] = {}
        self._ready: set[T] = set()

    def __repr__(self) -> str:
        return f"<Order {len(self._lines)} lines, {len(self._ready)} ready>"

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def began(self, key: Hashable, item: T) -> None:
        """The next of its sequence."""
        self._lines.setdefault(key, deque()).append(item)

    def ready(self, key: Hashable, item: T) -> list[T]:
        """This one may go: it and those behind it that waited for it, or none while another is before it."""
        self._ready.add(item)
        return self._leave(key)

    def left(self, key: Hashable, item: T) -> list[T]:
        """This one will not go: those that waited for it."""
        line = self._lines.get(key)
        if line is not None and item in line:
            line.remove(item)
        self._ready.discard(item)
        return self._leave(key)

    def _leave(self, key: Hashable) -> list[T]:
        line, going = self._lines.get(key), []
        while line and line[0] in self._ready:
            going.append(line.popleft())
            self._ready.discard(going[-1])
        if not line:
            self._lines.pop(key, None)
        return going
