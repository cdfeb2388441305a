"""What an engine is doing, in a mapped file that outlives it: which requests run since when, and whether it breathes.

The engine writes, as a few stores for each batch; the parent reads it while the engine lives (`watch.py` judges), and a
frontend when it has died, to know which of its requests ran and which only waited (`rerun.py` judges). Knows no model.

Words of 64 bits: how many are used, the last heartbeat, since when something is being loaded (0: nothing is), the
parent's verdict; then lanes, one for each thread that runs batches: its capacity, since when its batch runs (0: none
does), how long it may, of how many requests it is, and their ids. Times are CLOCK_MONOTONIC in ns.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

WORD = 8
FIRST_WORDS = 16384  # 128 KiB: 450 instances of batches of 32; doubled when they are used up
USED, BEAT, LOADING, VERDICT, FIRST_LANE = 0, 1, 2, 3, 8
CAPACITY, BEGAN, BOUND, COUNT, IDS = 0, 1, 2, 3, 4  # words of a lane
FROZEN = 2**64 - 1  # as a verdict: no lane is to blame


@dataclass(frozen=True, slots=True)
class Running:
    """A batch that runs, or ran when the engine died. `lane` tells it from others; `bound_ns` 0: without end."""

    lane: int
    began_ns: int
    bound_ns: int
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """What the box says. `verdict` is the lane for which the parent ended the engine, FROZEN, or 0."""

    beat_ns: int
    loading_ns: int
    verdict: int
    running: tuple[Running, ...]


class Lane:
    """One thread's own words. `begin` replaces what was there."""

    __slots__ = ("_bound_ns", "_words", "at", "capacity")

    def __init__(self, words: memoryview, at: int, capacity: int) -> None:
        self.at = at
        self.capacity = capacity
        self._words = words
        self._bound_ns = 0

    def bound(self, seconds: float) -> None:
        """How long each batch may run from now on; 0: as long as it takes."""
        self._bound_ns = int(seconds * 1e9)

    def begin(self, ids: Sequence[int]) -> None:
        """These requests are about to run."""
        words, at = self._words, self.at
        kept = array("Q", ids[: self.capacity])
        words[at + BEGAN] = 0
        words[at + IDS : at + IDS + len(kept)] = kept
        words[at + COUNT] = len(kept)
        words[at + BOUND] = self._bound_ns
        words[at + BEGAN] = time.monotonic_ns()  # last, so that a reader finds whole lanes only

    def end(self) -> None:
        """They were answered."""
        self._words[self.at + BEGAN] = 0


class BlackBox:
    """The engine's end. Without a path it writes into its own memory, where nobody reads."""

    def __init__(self, path: Path | None = None) -> None:
        self._file = os.open(path, os.O_RDWR) if path is not None else -1
        self._capacity = FIRST_WORDS
        self._free: dict[int, list[Lane]] = {}
        self._changing = threading.Lock()
        self._loading = 0
        self._words = self._map(FIRST_LANE)
        self.beat()

    def __repr__(self) -> str:
        return f"<BlackBox {self._words[USED]} words used>"

    def beat(self) -> None:
        """The process still breathes."""
        self._words[BEAT] = time.monotonic_ns()

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Inside the block the process may hold its breath: libraries that load models stop all of its threads."""
        self._words[LOADING] = time.monotonic_ns()
        try:
            yield
        finally:
            self.beat()
            self._words[LOADING] = 0

    def lane(self, requests: int) -> Lane:
        """Words for a thread whose batches have so many requests at most."""
        capacity = 1 << max(0, requests - 1).bit_length()
        with self._changing:
            free = self._free.get(capacity)
            if free:
                return free.pop()
            at, end = self._words[USED], self._words[USED] + IDS + capacity
            while end > self._capacity:
                self._capacity *= 2
            if self._capacity > len(self._words):
                self._words = self._map(at)  # lanes handed out before keep the old map of the same file
            self._words[at + CAPACITY] = capacity
            self._words[USED] = end
            return Lane(self._words, at, capacity)

    def give_back(self, lane: Lane) -> None:
        """Its thread has ended."""
        lane.end()
        with self._changing:
            self._free.setdefault(lane.capacity, []).append(lane)

    def _map(self, used: int) -> memoryview:
        size = self._capacity * WORD
        if self._file >= 0:
            os.posix_fallocate(self._file, 0, size)  # a store into a hole of a full disk would end the process
            words = memoryview(mmap.mmap(self._file, size)).cast("Q")
        else:
            words = memoryview(bytearray(size)).cast("Q")
        words[USED] = used
        return words


def beside(socket: str | Path) -> Path:
    """Where the box of the engine is that listens there."""
    return Path(socket).with_suffix(".box")


def create(path: Path) -> None:
    """An empty box: the parent makes it before the engine starts."""
    path.write_bytes(array("Q", [FIRST_LANE, time.monotonic_ns()] + [0] * (FIRST_LANE - 2)).tobytes())


def see_beside(socket: str | Path) -> Sight | None:
    """What the box of that engine says; None: the service itself has gone, and its folder."""
    with contextlib.suppress(OSError):
        return read(beside(socket))
    return None


def read(path: Path) -> Sight:
    """What it says now. Raises OSError where there is no box."""
    content = path.read_bytes()
    words = memoryview(content[: len(content) // WORD * WORD]).cast("Q")
    return Sight(words[BEAT], words[LOADING], words[VERDICT], tuple(_running(words)))


def condemn(path: Path, verdict: int) -> None:
    """Note why the engine is about to be ended, for those who read the box afterwards."""
    with path.open("r+b") as file:
        file.seek(VERDICT * WORD)
        file.write(verdict.to_bytes(WORD, "little"))


def _running(words: memoryview) -> Iterator[Running]:
    at = FIRST_LANE
    while at + IDS <= min(words[USED], len(words)):
        capacity = words[at + CAPACITY]
        count = min(words[at + COUNT], capacity)
        if words[at + BEGAN]:
            yield Running(at, words[at + BEGAN], words[at + BOUND], tuple(words[at + IDS : at + IDS + count].tolist()))
        at += IDS + capacity
