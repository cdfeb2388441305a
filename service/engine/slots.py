"""Which row of the kept state belongs to which sequence, and which row of whose batch that is.

Pure: numbers only. `sequences.py` takes a slot for each sequence that lives and frees it when that ends.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Policy:
    """How one model's sequences are served. `rows` is the largest batch, 1 for a model without a batch dimension.

    `oldest`: any instance runs any sequence, at most `max_sequences` live. `direct`: a sequence owns one row of one
    instance's batch, so that no more live than there are rows. `max_queue_size` counts requests.
    """

    strategy: Literal["oldest", "direct"]
    instances: int
    rows: int
    buckets: tuple[int, ...] = ()
    max_sequences: int = 128
    idle_timeout_s: float = 60.0
    max_queue_size: int = 1024
    max_queue_delay_s: float = 0.0

    @property
    def slots(self) -> int:
        """The rows of state to keep."""
        return self.instances * self.rows if self.strategy == "direct" else self.max_sequences

    @property
    def max_living(self) -> int:
        return min(self.slots, self.max_sequences)

    def group(self, instance: int) -> int:
        """The sequences that this instance runs: its own, or those of all."""
        return instance if self.strategy == "direct" else 0

    def group_of(self, slot: int) -> int:
        return slot // self.rows if self.strategy == "direct" else 0

    def row_of(self, slot: int, index: int) -> int:
        """The row of the batch that the sequence of this slot has, when it is the `index`-th to be taken."""
        return slot % self.rows if self.strategy == "direct" else index

    def bucket(self, rows: int) -> int:
        """The smallest batch size that holds `rows` rows."""
        return self.buckets[bisect_left(self.buckets, rows)] if self.buckets else rows


class Slots:
    """`take()` the lowest slot of the instance that has most left; `free(slot)` gives it back."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        size = policy.rows if policy.strategy == "direct" else policy.max_sequences
        self._free = [list(range(first, first + size)) for first in range(0, policy.slots, size)]
        self._left = policy.max_living

    def __repr__(self) -> str:
        return f"<Slots {self._left} of {self._policy.max_living} left>"

    def take(self) -> int | None:
        """None: as many live as may."""
        if not self._left:
            return None
        self._left -= 1
        return heapq.heappop(max(self._free, key=len))

    def free(self, slot: int) -> None:
        self._left += 1
        heapq.heappush(self._free[self._policy.group_of(slot)], slot)
