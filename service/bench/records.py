"""One line for every request: when it was meant to begin, how long it took, how late the client was, how it ended.

Pure values; `pacers.py` writes them in a client process, `windows.py` and `summary.py` read them in the parent.
Times are nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]


class Batch(msgspec.Struct, frozen=True):
    """Records on their way from a client process: the columns as bytes."""

    begun: bytes = b""
    latency: bytes = b""
    lag: bytes = b""
    outcome: bytes = b""


class Book:
    """Where a client process writes; `take` empties it."""

    def __init__(self) -> None:
        self._begun, self._latency, self._lag = array("q"), array("q"), array("q")
        self._outcome = array("h")

    def note(self, begun_ns: int, latency_ns: int, lag_ns: int, outcome: int) -> None:
        self._begun.append(begun_ns)
        self._latency.append(latency_ns)
        self._lag.append(lag_ns)
        self._outcome.append(outcome)

    def take(self) -> Batch:
        """All that was noted since the last time."""
        batch = Batch(*(each.tobytes() for each in (self._begun, self._latency, self._lag, self._outcome)))
        for column in (self._begun, self._latency, self._lag, self._outcome):
            del column[:]
        return batch


@dataclass(frozen=True, slots=True)
class Records:
    """Equally long columns. `begun` is the intended start, `lag` how much later the request was written."""

    begun: Times
    latency: Times
    lag: Times
    outcome: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.begun)

    @property
    def ended(self) -> Times:
        return self.begun + self.latency

    def where(self, mask: NDArray[np.bool_]) -> Records:
        return Records(self.begun[mask], self.latency[mask], self.lag[mask], self.outcome[mask])


def join(batches: Sequence[Batch]) -> Records:
    """The records of all batches."""

    def times(name: str) -> Times:
        return np.frombuffer(b"".join(getattr(batch, name) for batch in batches), np.int64)

    outcome = np.frombuffer(b"".join(batch.outcome for batch in batches), np.int16)
    return Records(times("begun"), times("latency"), times("lag"), outcome)
