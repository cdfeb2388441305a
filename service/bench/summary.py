"""What one level of load came to: rates, percentiles, errors, and what client and server spent on it.

Pure. `run.py` gathers, `show.py` and `plot.py` present, `results.py` writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.bench.levels import Level
from service.bench.outcomes import FIRST_STATUS, OK, outcome_text
from service.bench.phases import Phases, phases_between
from service.bench.records import Records
from service.bench.windows import STEADY_WINDOWS, Window, belongs, spread

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
BUSY_SHARE = 0.9  # of a core: a client process that uses more is itself what limits the rate


class Result(msgspec.Struct, frozen=True):
    """One level. Latencies are of successful requests, in milliseconds; a percentile is absent where fewer than one
    request lies beyond it. Processor time is told per request that the server answered; `client_core_share` is of the
    busiest client process. `late_p99_ms` is how much later than meant requests of an open loop were written."""

    level: Level
    is_steady: bool
    spread: float | None
    seconds: float
    requests: int
    requests_per_s: float
    rows_per_s: float
    latency_ms: dict[str, float]
    errors: dict[str, int]
    error_p99_ms: float | None
    late_p99_ms: float | None
    client_cpu_us: float | None
    client_core_share: float
    server_cpu_us: float | None
    phases: Phases | None

    @property
    def error_count(self) -> int:
        return sum(self.errors.values())

    @property
    def is_client_bound(self) -> bool:
        return self.client_core_share > BUSY_SHARE


@dataclass(slots=True)
class Meter:
    """A counter that only grows, read now and then: processor time by moment, nanoseconds both."""

    moments_ns: list[int] = field(default_factory=list)
    readings_ns: list[int] = field(default_factory=list)

    def read(self, moment_ns: int, reading_ns: int) -> None:
        self.moments_ns.append(moment_ns)
        self.readings_ns.append(reading_ns)

    def between(self, begin_ns: int, end_ns: int) -> float:
        """How much was added, readings in between interpolated."""
        begin, end = np.interp([begin_ns, end_ns], self.moments_ns, self.readings_ns)
        return float(end - begin)


@dataclass(slots=True)
class Observed:
    """All that was seen of one level; the server's parts stay empty where they cannot be seen."""

    level: Level
    rows: int
    clients: dict[int, Meter] = field(default_factory=dict)
    server: Meter | None = None
    statistics: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


def summarize(observed: Observed, records: Records, windows: Sequence[Window], limit: float) -> Result:
    """The last windows of a level as one. Raises ValueError where there is none."""
    if not windows:
        raise ValueError("no window was completed")
    told = windows[-STEADY_WINDOWS:]
    begin, end = told[0].begin_ns, told[-1].end_ns
    ended = records.where((records.ended >= begin) & (records.ended < end))
    moments = belongs(records, observed.level.is_open)
    own = records.where((moments >= begin) & (moments < end))
    right, wrong = own.where(own.outcome == OK), own.where(own.outcome != OK)
    seconds = (end - begin) / 1e9
    requests = int(np.count_nonzero(ended.outcome == OK))
    width = spread(windows)
    answered = int(np.count_nonzero((ended.outcome == OK) | (ended.outcome >= FIRST_STATUS)))
    client_ns = [meter.between(begin, end) for meter in observed.clients.values()]
    return Result(
        level=observed.level,
        is_steady=width <= limit,
        spread=round(width, 4) if np.isfinite(width) else None,
        seconds=round(seconds, 3),
        requests=requests,
        requests_per_s=round(requests / seconds, 1),
        rows_per_s=round(requests * observed.rows / seconds, 1),
        latency_ms=latencies(right.latency),
        errors=count_errors(wrong),
        error_p99_ms=_quantile_ms(wrong.latency, 0.99),
        late_p99_ms=_quantile_ms(own.lag, 0.99) if observed.level.is_open else None,
        client_cpu_us=_per_request(sum(client_ns), answered),
        client_core_share=round(max(client_ns, default=0.0) / (end - begin), 3),
        server_cpu_us=_per_request(observed.server.between(begin, end), answered) if observed.server else None,
        phases=_phases(observed.statistics, begin, end),
    )


def latencies(nanoseconds: NDArray[np.int64]) -> dict[str, float]:
    """Mean, percentiles and maximum, in milliseconds. A percentile is one that was seen, not an interpolation."""
    if not len(nanoseconds):
        return {}
    told = {"mean": float(nanoseconds.mean())}
    for name, share in PERCENTILES.items():
        if len(nanoseconds) * (1 - share) >= 1 - 1e-9:  # 0.99 is not exact
            told[name] = float(np.quantile(nanoseconds, share, method="inverted_cdf"))
    told["max"] = float(nanoseconds.max())
    return {name: round(value / 1e6, 4) for name, value in told.items()}


def count_errors(records: Records) -> dict[str, int]:
    """How many requests ended in each way, the most frequent first."""
    counted = Counter(records.outcome.tolist())
    return {outcome_text(outcome): count for outcome, count in counted.most_common()}


def _quantile_ms(nanoseconds: NDArray[np.int64], share: float) -> float | None:
    if not len(nanoseconds):
        return None
    return round(float(np.quantile(nanoseconds, share, method="inverted_cdf")) / 1e6, 4)


def _per_request(nanoseconds: float, requests: int) -> float | None:
    return round(nanoseconds / requests / 1000, 1) if requests else None


def _phases(statistics: Sequence[tuple[int, dict[str, Any]]], begin_ns: int, end_ns: int) -> Phases | None:
    """From the last statistics that were read before the two moments and the first after them, as far as there are."""
    if not statistics:
        return None
    before = [read for moment_ns, read in statistics if moment_ns <= begin_ns] or [statistics[0][1]]
    after = [read for moment_ns, read in statistics if moment_ns >= end_ns] or [statistics[-1][1]]
    return phases_between(before[-1], after[0])
