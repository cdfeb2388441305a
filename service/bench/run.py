"""Measures a target, level after level: warm-up, windows until they are steady, then what they held.

The only place where load, time and statistics meet. `clients.py` puts the load on; what is decided and counted is pure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.bench.clients import Clients
from service.bench.levels import Level
from service.bench.processor import Usage
from service.bench.records import Batch, join
from service.bench.summary import Meter, Observed, Result, summarize
from service.bench.target import Request
from service.bench.windows import Window, complete, cut, spread

NANOSECONDS = 1_000_000_000
LEAD_NS = 20_000_000  # from the order to begin until every process has it

Clock = time.monotonic_ns
ReadStatistics = Callable[[], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Terms:
    """How to measure. A level ends once its last windows differ by at most `steady_spread`, or after `max_windows`;
    the whole ends after `max_s`."""

    processes: int = 1
    warm_up_s: float = 1.0
    window_s: float = 1.0
    max_windows: int = 10
    steady_spread: float = 0.1
    seed: int = 0
    server_pid: int | None = None
    max_s: float = 600.0


class Watch(Protocol):
    """Who looks on."""

    def began(self, level: Level) -> None: ...
    def went_on(self, level: Level, windows: Sequence[Window], spread: float) -> None: ...
    def finished(self, result: Result) -> None: ...
    def skipped(self, level: Level, reason: str) -> None: ...


async def measure(
    request: Request,
    levels: Sequence[Level],
    terms: Terms,
    watch: Watch,
    read_statistics: ReadStatistics = lambda: None,
) -> list[Result]:
    """The results of all levels that fitted into the time. Raises BenchError where the server does not take load."""
    deadline_ns = Clock() + int(terms.max_s * NANOSECONDS)
    results = []
    async with Clients(request.target, terms.processes) as clients:
        for level in levels:
            if Clock() >= deadline_ns:
                watch.skipped(level, f"the {terms.max_s:g} s of --max-seconds are over")
                continue
            watch.began(level)
            measuring = _Measuring(clients, terms, watch, Observed(level, request.rows), deadline_ns)
            if (result := await measuring.run(read_statistics)) is None:
                watch.skipped(level, "no window was complete when the time was over")
            else:
                watch.finished(result)
                results.append(result)
    return results


class _Measuring:
    """One level, from opening the connections to the last answer."""

    def __init__(self, clients: Clients, terms: Terms, watch: Watch, observed: Observed, deadline_ns: int) -> None:
        self._clients = clients
        self._terms = terms
        self._watch = watch
        self._observed = observed
        self._deadline_ns = deadline_ns
        self._width_ns = int(terms.window_s * NANOSECONDS)
        self._first_ns = 0
        self._batches: list[Batch] = []
        self._windows: list[Window] = []
        self._server = Usage(terms.server_pid) if terms.server_pid else None
        if self._server:
            observed.server = Meter()

    async def run(self, read_statistics: ReadStatistics) -> Result | None:
        """None where the time was over before one window was complete."""
        level = self._observed.level
        await self._clients.prepare(level, self._terms.seed)
        begin_ns = Clock() + LEAD_NS
        self._first_ns = begin_ns + int(self._terms.warm_up_s * NANOSECONDS)
        self._clients.go(begin_ns)
        while not self._is_done():
            watermark_ns = await self._hear()
            count = complete(self._first_ns, self._width_ns, watermark_ns)
            if count > len(self._windows) or (not self._observed.statistics and Clock() > self._first_ns):
                await self._note_statistics(read_statistics)
            self._cut(count)
        stopped_ns = Clock()
        await self._note_statistics(read_statistics)
        self._clients.stop()
        while self._clients.is_loading:
            await self._hear()
        self._cut(complete(self._first_ns, self._width_ns, stopped_ns))
        if not self._windows:
            return None
        return summarize(self._observed, join(self._batches), self._windows, self._terms.steady_spread)

    def _is_done(self) -> bool:
        last_ns = self._first_ns + self._terms.max_windows * self._width_ns
        is_over = Clock() >= min(last_ns, self._deadline_ns)
        return is_over or spread(self._windows) <= self._terms.steady_spread

    async def _hear(self) -> int:
        """Take in a report of each process; the moment up to which all is accounted for."""
        reports = await self._clients.reports()
        for index, report in reports:
            self._batches.append(report.batch)
            self._observed.clients.setdefault(index, Meter()).read(report.now_ns, report.cpu_ns)
        if self._server and self._observed.server:
            self._observed.server.read(Clock(), self._server.read_ns())
        return min(report.watermark_ns for _, report in reports)

    def _cut(self, count: int) -> None:
        count = min(count, self._terms.max_windows)
        if count <= len(self._windows):
            return
        level = self._observed.level
        self._windows = cut(join(self._batches), level.is_open, self._first_ns, self._width_ns, count)
        self._watch.went_on(level, self._windows, spread(self._windows))

    async def _note_statistics(self, read_statistics: ReadStatistics) -> None:
        statistics = await asyncio.to_thread(read_statistics)
        if statistics is not None:
            self._observed.statistics.append((Clock(), statistics))
