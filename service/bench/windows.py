"""When a measurement is steady: equal windows of time, and the spread of the last few.

Pure. `run.py` asks after each window; `summary.py` tells what the steady ones held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.bench.outcomes import OK
from service.bench.records import Records, Times

STEADY_WINDOWS = 3  # the last ones, which must agree and which are told


@dataclass(frozen=True, slots=True)
class Window:
    """What one window held. A request counts into the rate when it ends, into the latencies as `belongs` says."""

    begin_ns: int
    end_ns: int
    requests_per_s: float
    p50_ms: float


def belongs(records: Records, is_open: bool) -> Times:
    """The moment that decides into which window a latency falls. In an open loop the intended start: a server that
    falls behind must not push its slowest answers out of the window that they belong to."""
    return records.begun if is_open else records.ended


def cut(records: Records, is_open: bool, begin_ns: int, width_ns: int, count: int) -> list[Window]:
    """`count` windows of `width_ns` one after the other, from `begin_ns` on."""
    right = records.where(records.outcome == OK)
    moments, ended = belongs(right, is_open), right.ended
    windows = []
    for index in range(count):
        low = begin_ns + index * width_ns
        high = low + width_ns
        finished = int(np.count_nonzero((ended >= low) & (ended < high)))
        latencies = right.latency[(moments >= low) & (moments < high)]
        p50_ms = float(np.median(latencies)) / 1e6 if len(latencies) else 0.0
        windows.append(Window(low, high, finished * 1e9 / width_ns, p50_ms))
    return windows


def spread(windows: Sequence[Window]) -> float:
    """The largest distance, of rate or of median latency, between the last windows, as a share of its mean; infinite
    where there are too few or one is empty."""
    last = windows[-STEADY_WINDOWS:]
    if len(last) < STEADY_WINDOWS or any(window.requests_per_s == 0 for window in last):
        return float("inf")
    return max(_spread([w.requests_per_s for w in last]), _spread([w.p50_ms for w in last]))


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return (max(values) - min(values)) / mean if mean else float("inf")


def complete(begin_ns: int, width_ns: int, watermark_ns: int) -> int:
    """How many windows from `begin_ns` on lie before the watermark, up to which every request is accounted for."""
    return max(0, (watermark_ns - begin_ns) // width_ns)
