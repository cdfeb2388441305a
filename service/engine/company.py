"""Requests whose sizes are padded: which of them may share a batch, and when that is worth it.

Pure: no clock, no tensors. `batcher.py` asks what batches take and whom to run together, `padder.py` lays them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.engine.latency import Latency

Sizes = tuple[int, ...]  # of each padded dimension, in the order of `Padding.dims`


@dataclass(frozen=True, slots=True)
class Room:
    """What a request takes once it is padded: these sizes. Those of equal `rest` may share a batch of the larger."""

    sizes: Sizes
    rest: Hashable = None

    def holds(self, other: Room) -> bool:
        """Whether the other fits in without making it larger."""
        return self.rest == other.rest and all(a >= b for a, b in zip(self.sizes, other.sizes, strict=True))

    def join(self, other: Room) -> Room:
        """The smallest that holds both."""
        return Room(tuple(map(max, self.sizes, other.sizes)), self.rest)


def room_of(shapes: Iterable[Hashable]) -> Room:
    """The smallest that holds all of them, which are rooms."""
    found: Room | None = None
    for shape in shapes:
        assert isinstance(shape, Room), "all requests of a padded model have one"
        found = shape if found is None or found is shape else found.join(shape)
    assert found is not None, "there is one request or more"
    return found


class Latencies:
    """What batches take, by what their requests have in common. Without padding that is the same for all of them."""

    def __init__(
        self, buckets: Sequence[int], seconds: Mapping[int, float], padded: Mapping[Sizes, Mapping[int, float]]
    ) -> None:
        self._buckets = tuple(buckets)
        self.plain = Latency(self._buckets, seconds)
        self._padded = {sizes: Latency(self._buckets, times) for sizes, times in padded.items()}

    def __repr__(self) -> str:
        return f"<Latencies {self.plain!r}, {len(self._padded)} padded sizes>"

    def of(self, shape: Hashable) -> Latency:
        """Of requests of this shape; where they are padded by its sizes, which are learned if nobody measured them."""
        if not isinstance(shape, Room):
            return self.plain
        found = self._padded.get(shape.sizes)
        if found is None:
            found = self._padded[shape.sizes] = Latency(self._buckets, {})
        return found

    def seconds(self, rows: Mapping[Hashable, int]) -> float | None:
        """What so many rows of each shape take on one device that does nothing else; None where that is not known.

        The sooner of two ways: each shape by itself, or, where they may share batches, all padded to the largest sizes.
        """
        kinds = [(self.of(shape), count) for shape, count in rows.items()]
        if not all(latency.is_known for latency, _ in kinds):
            return None
        apart: dict[int, tuple[Latency, int]] = {}
        for latency, count in kinds:
            apart[id(latency)] = latency, apart.get(id(latency), (latency, 0))[1] + count
        spent = sum(latency.seconds(count) for latency, count in apart.values())
        if len(apart) < 2 or len({shape.rest for shape in rows if isinstance(shape, Room)}) > 1:
            return spent
        together = self.of(room_of(rows))
        return min(spent, together.seconds(sum(rows.values()))) if together.is_known else spent


def choose_company(
    head: Room, rows: int, waiting: Sequence[tuple[Room, int]], latencies: Latencies
) -> tuple[list[Room], Room, int]:
    """Whom to run together with the `rows` rows of `head`: the shapes, the room that holds all, and all their rows.

    `waiting` are shapes and their rows, in the order of serving. One joins where both together take less time of the
    device than each by itself, padded as they then are.
    """
    joined, room = [], head
    for shape, count in waiting:
        if shape.rest != head.rest:
            continue
        larger = room.join(shape)
        one, other, both = latencies.of(room), latencies.of(shape), latencies.of(larger)
        if not (one.is_known and other.is_known and both.is_known):
            continue
        if both.seconds(rows + count) < one.seconds(rows) + other.seconds(count):
            joined.append(shape)
            room, rows = larger, rows + count
    return joined, room, rows
