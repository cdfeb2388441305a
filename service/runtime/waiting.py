"""How to wait for a GPU, and which of its calls are timed: what looking costs is more than a small model's copies take.

Pure: knows no GPU and no clock. `cuda.py` asks it before it launches and before it waits, and tells it what came of it.
"""

from __future__ import annotations

from dataclasses import dataclass

LONG_NS = 1_000_000  # from 1 ms on, the processor is left to others meanwhile
EARLY_NS = 160_000  # a nap ends so long before the end: a timer may be late by a tenth of a millisecond
LATE_NS = 1_000_000  # what ended later than that had to wait for others, and so may the next
TIMED_EVERY_NS = 50_000_000  # the GPU's clock is asked at most so often for calls of one size: each look takes 30 µs
MAX_SIZES = 256  # that are remembered; a model whose sizes are free may be asked for any

Phases = tuple[int, int, int]  # nanoseconds of copying in, computing, copying out


@dataclass(slots=True)
class _Size:
    """`inward` and `work`, which is computing and copying out, are the less of the last two that were timed: one alone
    may have been interrupted."""

    at: int
    phases: Phases
    inward: int = 0
    work: int = 0
    is_late: bool = False


class Patience:
    """What calls took by the GPU's clock, by the bytes of their inputs. All times are nanoseconds.

    How long a call was waited for says nothing of it: a nap that was too long would be thought to be right.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._ended = 0

    def __repr__(self) -> str:
        return f"<Patience with {len(self._sizes)} sizes>"

    def is_timed(self, size: int, now: int) -> bool:
        """Whether to ask the GPU's clock about a call."""
        known = self._sizes.get(size)
        return known is None or now - known.at >= TIMED_EVERY_NS

    def is_woken(self, size: int) -> bool:
        """Whether to sleep until the GPU wakes us, some 0.1 ms late: where it is long and its end not known."""
        known = self._sizes.get(size)
        return known is not None and sum(known.phases) >= LONG_NS and (not known.work or known.is_late)

    def nap_ns(self, size: int, launched: int, now: int) -> int:
        """How long to sleep before watching for the end of what is not woken."""
        known = self._sizes.get(size)
        if known is None or known.inward + known.work < LONG_NS:
            return 0
        return max(0, self._end(known, launched) - EARLY_NS - now)

    def landed(self, size: int, launched: int, now: int, *, is_seen: bool = True) -> None:
        """A call launched then has ended, and was seen to end; else it had ended when one came to look."""
        known, ended = self._sizes.get(size), now
        if known is not None:
            end = self._end(known, launched)
            known.is_late = now - end > LATE_NS
            if not is_seen and known.work:
                ended = min(now, end)
        self._ended = ended

    def timed(self, size: int, now: int, phases: Phases) -> None:
        """What the GPU's clock said."""
        known = self._sizes.get(size)
        if known is None:
            if len(self._sizes) >= MAX_SIZES:
                self._sizes.clear()
            self._sizes[size] = _Size(now, phases)
            return
        known.inward = min(phases[0], known.phases[0])
        known.work = min(sum(phases[1:]), sum(known.phases[1:]))
        known.at, known.phases = now, phases

    def _end(self, known: _Size, launched: int) -> int:
        """When a call ends: its rows are brought while the one before it computes, from which on it computes."""
        return max(launched + known.inward, self._ended) + known.work

    def phases(self, size: int) -> Phases:
        """What the last call of this size took that was timed."""
        known = self._sizes.get(size)
        return known.phases if known is not None else (0, 0, 0)
