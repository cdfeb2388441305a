"""Says when to prepare the next batch while the device computes: as late as can be, for others may join it till then.

Pure: no clock, no threads. `overlapped.py` tells it what was launched, laid and landed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

WEIGHT = 1 / 8  # of a new time in the running mean
EARLY_S = 0.0002  # the sooner, for a batch that is late leaves the device idle; also what a launch takes


class Foresight:
    """When the device will be idle, by what batches of each kind took it and what preparing a row took.

    A kind is the size of the batch, and those that it is padded to.
    """

    def __init__(self) -> None:
        self._device_s: dict[Hashable, float] = {}
        self._row_s = 0.0
        self._ends: deque[float] = deque()
        self._landed = 0.0

    def __repr__(self) -> str:
        return f"<Foresight {len(self._ends)} under way, {1e6 * self._row_s:.1f} µs a row>"

    def launched(self, kind: Hashable, now: float) -> None:
        """A batch was given to the device, which works on it after those before it."""
        begins = max(now, self._ends[-1]) if self._ends else now
        self._ends.append(begins + self._device_s.get(kind, 0.0))

    def prepared(self, rows: int, spent_s: float) -> None:
        """So many rows were laid and copied to the device in so many seconds."""
        row_s = spent_s / max(1, rows)
        self._row_s += (row_s - self._row_s) * (WEIGHT if self._row_s else 1.0)

    def landed(self, kind: Hashable, began: float, now: float) -> float:
        """The oldest has ended, launched at `began`; for how long the device was its own."""
        self._ends.popleft()
        spent = now - max(began, self._landed)
        self._landed = now
        mean = self._device_s.get(kind, spent)
        self._device_s[kind] = mean + WEIGHT * (spent - mean)
        return spent

    def prepares_at(self, rows: int) -> float:
        """When to prepare the `rows` rows that wait; now, where the device is idle or its time is not known."""
        return self._ends[-1] - rows * self._row_s - EARLY_S if self._ends else 0.0
