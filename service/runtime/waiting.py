"""How to wait for a GPU, and which of its calls are timed: what looking costs is more than a small model's copies take.

Pure: knows no GPU and no clock. `cuda.py` asks it before it launches and before it waits, and tells it what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass

LONG_NS = 1_000_000  # from 1 ms on, the processor is left to others meanwhile
EARLY_NS = 250_000  # a nap ends so long before the end: a timer may be late by a tenth of a millisecond
UNSTEADY_NS = 1_000_000  # where the end was mistaken by more, others use the GPU too: to be woken costs some 0.1 ms
TIMED_EVERY_NS = 50_000_000  # the GPU's clock is asked at most so often for calls of one size: each look takes 30 µs
WEIGHT = 1 / 4  # of a new time in the running mean
MAX_SIZES = 256  # that are remembered; a model whose sizes are free may be asked for any

Phases = tuple[int, int, int]  # nanoseconds of copying in, computing, copying out


@dataclass(slots=True)
class _Size:
    took_ns: float
    mistaken_ns: float = 0.0


class Patience:
    """What calls took, by the bytes of their inputs. All times are nanoseconds."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._timed: dict[int, tuple[int, Phases]] = {}
        self._landed = 0

    def __repr__(self) -> str:
        return f"<Patience with {len(self._sizes)} sizes>"

    def nap_ns(self, size: int, launched: int, now: int) -> int | None:
        """How long to sleep before watching for the end; None: sleep until woken, as nobody knows when that is."""
        known = self._sizes.get(size)
        if known is None or known.took_ns < LONG_NS:
            return 0
        if known.mistaken_ns > UNSTEADY_NS:
            return None
        return max(0, int(max(launched, self._landed) + known.took_ns - EARLY_NS) - now)

    def landed(self, size: int, launched: int, now: int) -> None:
        """A call launched then has ended."""
        took = now - max(launched, self._landed)
        self._landed = now
        known = self._sizes.get(size)
        if known is None:
            if len(self._sizes) >= MAX_SIZES:
                self._sizes.clear()
            self._sizes[size] = _Size(took)
            return
        known.mistaken_ns = abs(took - known.took_ns)
        known.took_ns += WEIGHT * (took - known.took_ns)

    def is_timed(self, size: int, now: int) -> bool:
        """Whether to ask the GPU's clock about a call."""
        last = self._timed.get(size)
        return last is None or now - last[0] >= TIMED_EVERY_NS

    def timed(self, size: int, now: int, phases: Phases) -> None:
        """It said so."""
        if len(self._timed) >= MAX_SIZES:
            self._timed.clear()
        self._timed[size] = (now, phases)

    def phases(self, size: int) -> Phases:
        """What the last call of this size took that was timed."""
        last = self._timed.get(size)
        return last[1] if last is not None else (0, 0, 0)
