"""What a person sees: a line that moves while a level is measured, a table at the end, and what to mind about it.

Knows the results, not how they were obtained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.table import Table

from service.bench.levels import Level
from service.bench.summary import PERCENTILES, Result
from service.bench.windows import Window

PLAIN_WIDTH = 180  # where the output is a file or a pipe, lines must not be folded at 80
LATE_MS = 1.0  # later than this a request was not sent when it was meant to be
PHASE_NAMES = {"queue": "queue", "compute_input": "in", "compute_infer": "compute", "compute_output": "out"}


class Progress:
    """Looks on: one moving line on a terminal, one line for each level elsewhere; all on stderr."""

    def __init__(self, what: str = "") -> None:
        self._what = f"{what}, " if what else ""
        self._console = Console(stderr=True)
        self._status = Status("connecting", console=self._console)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()

    def began(self, level: Level) -> None:
        self._status.update(f"{self._what}{level}: warming up")

    def went_on(self, level: Level, windows: Sequence[Window], spread: float) -> None:
        last = windows[-1]
        steady = f", spread {spread:.0%}" if spread != float("inf") else ""
        figures = f"{last.requests_per_s:,.0f} requests/s, p50 {last.p50_ms:.3g} ms{steady}"
        self._status.update(f"{self._what}{level}: window {len(windows)}, {figures}")

    def finished(self, result: Result) -> None:
        median = result.latency_ms.get("p50")
        latency = f", p50 {median:.3g} ms" if median is not None else ""
        errors = f", {result.error_count:,} errors" if result.errors else ""
        line = f"{self._what}{result.level}: {result.requests_per_s:,.0f} requests/s{latency}{errors}"
        self._console.print(line, highlight=False)

    def skipped(self, level: Level, reason: str) -> None:
        self._console.print(f"{self._what}{level}: not measured: {reason}", highlight=False)


def table_of(title: str, results: Sequence[Result]) -> Table:
    """One row for each level; columns that say nothing are left out."""
    table = Table(title=title, title_justify="left")
    columns = _columns(results)
    for column in columns:
        table.add_column(column, justify="left" if column == "load" else "right")
    for result in results:
        cells = _cells(result)
        table.add_row(*(cells.get(column, "") for column in columns))
    return table


def notes(results: Sequence[Result]) -> list[str]:
    """What to mind: errors by kind, windows that stayed unsteady, a client at its limit, requests sent late."""
    found = []
    for result in results:
        for kind, count in result.errors.items():
            found.append(f"{result.level}: {count:,} × {kind}")
        if not result.is_steady:
            spread = (
                "too few windows, or an empty one" if result.spread is None else f"they differ by {result.spread:.0%}"
            )
            found.append(
                f"{result.level}: the last windows are not steady ({spread}): measure longer, or a quieter machine"
            )
        if result.is_client_bound:
            found.append(
                f"{result.level}: a client process used {result.client_core_share:.0%} of a core, so the client may be "
                "what limits: give more --processes"
            )
        if result.late_p99_ms is not None and result.late_p99_ms > LATE_MS:
            found.append(
                f"{result.level}: one request of a hundred was sent {result.late_p99_ms:.3g} ms late or more: "
                "all connections, or the client, were busy; the latencies include it"
            )
    return found


def print_results(title: str, results: Sequence[Result]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(table_of(title, results))
    for note in notes(results):
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)


def _columns(results: Sequence[Result]) -> list[str]:
    filled = {column for result in results for column, cell in _cells(result).items() if cell}
    names = ["load", "requests/s", "rows/s", *(f"{name} ms" for name in PERCENTILES), "max ms", "errors"]
    names += ["client µs", "server µs", *(f"{name} µs" for name in PHASE_NAMES.values()), "rows/batch", "steady"]
    return [name for name in names if name in filled]


def _cells(result: Result) -> dict[str, str]:
    cells = {
        "load": str(result.level),
        "requests/s": f"{result.requests_per_s:,.0f}",
        "rows/s": f"{result.rows_per_s:,.0f}" if result.rows_per_s != result.requests_per_s else "",
        "errors": f"{result.error_count:,}" if result.errors else "",
        "client µs": _micro(result.client_cpu_us),
        "server µs": _micro(result.server_cpu_us),
        "steady": "yes" if result.is_steady else "no",
    }
    for name in (*PERCENTILES, "max"):
        cells[f"{name} ms"] = f"{result.latency_ms[name]:.3g}" if name in result.latency_ms else ""
    if result.phases:
        for key, name in PHASE_NAMES.items():
            cells[f"{name} µs"] = _micro(result.phases.microseconds.get(key))
        cells["rows/batch"] = f"{result.phases.rows_per_batch:.3g}"
    return cells


def _micro(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
