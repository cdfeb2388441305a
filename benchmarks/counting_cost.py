"""What counting costs a server under load: one server that stops counting and begins again, slice after slice.

The same processes, connections and memory in both cases, a third of a second apart: what else the machine does
strikes both. Slices come in the order counting, not, not, counting, so that a drift cancels out, and each two that are
neighbours are a pair. `metrics_cost.py` measures with it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.servers import MODELS
from service.bench.clients import Clients
from service.bench.levels import Level
from service.bench.messages import Protocol, Target
from service.bench.records import Batch, join
from service.bench.target import Subject, build_request
from service.observe.adding import LAG_S
from tests.e2e.running import RunningServer

UNCOUNTED = Path(__file__).parent / "uncounted"
PROCESSES = {"frontend": "service.frontend", "engine": "service.engine.worker"}
WARM_UP_S, SLICE_S, TIMEOUT_S = 1.5, 0.2, 30.0
SWITCH_S = 1.1 * LAG_S  # by then all is counted that was put off before
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Slice:
    """From when to when one of both was measured; processor time that each process used in it."""

    is_counting: bool
    begin_ns: int
    end_ns: int
    cpu_ns: dict[str, int]


@contextmanager
def switched_server(folder: Path, *flags: str) -> Iterator[RunningServer]:
    """torchere with the MLP and one frontend, which listens to the signals."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{UNCOUNTED}{os.pathsep}{MODELS.parents[1]}"
    flags = ("--models", "mlp", "--startup", "wait", "--frontends", "1", *flags)
    try:
        with RunningServer(MODELS, folder / "cache", folder, *flags) as running:
            yield running
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


def cpu_of(pid: int) -> int:
    """Nanoseconds of processor time that all threads of a process have used."""
    return time.clock_gettime_ns((~pid << 3) | 2)  # the clock of a process, as clock_getcpuclockid(3) makes it


async def press(target: Target, concurrency: int, pids: dict[str, int], pairs: int) -> tuple[list[Slice], list[Batch]]:
    """Load without an end to it, and what each slice of it used."""
    slices: list[Slice] = []
    batches: list[Batch] = []
    async with Clients(target, 1) as clients:
        await clients.prepare(Level(concurrency), seed=0)
        clients.go(time.monotonic_ns())
        hearing = asyncio.create_task(_hear(clients, batches))
        await asyncio.sleep(WARM_UP_S)
        for number in range(2 * pairs):
            is_counting = number % 4 in (0, 3)
            for pid in pids.values():
                os.kill(pid, signal.SIGUSR2 if is_counting else signal.SIGUSR1)
            await asyncio.sleep(SWITCH_S)
            before, begin_ns = {name: cpu_of(pid) for name, pid in pids.items()}, time.monotonic_ns()
            await asyncio.sleep(SLICE_S)
            after, end_ns = {name: cpu_of(pid) for name, pid in pids.items()}, time.monotonic_ns()
            used = {name: after[name] - before[name] for name in pids}
            slices.append(Slice(is_counting, begin_ns, end_ns, used))
        clients.stop()
        await hearing
    return slices, batches


async def _hear(clients: Clients, batches: list[Batch]) -> None:
    while clients.is_loading:
        batches.extend(report.batch for _, report in await clients.reports())


def compare(slices: Sequence[Slice], batches: Sequence[Batch]) -> dict[str, Any]:
    """Medians of both, and of the differences of pairs."""
    ended = np.sort(join(batches).ended)
    answered = [int(np.diff(np.searchsorted(ended, [each.begin_ns, each.end_ns]))[0]) for each in slices]
    measured: dict[str, list[float]] = {"requests_per_s": []}
    for each, count in zip(slices, answered, strict=True):
        measured["requests_per_s"].append(count * 1e9 / (each.end_ns - each.begin_ns))
        for name, used in (*each.cpu_ns.items(), ("both", sum(each.cpu_ns.values()))):
            measured.setdefault(f"{name}_cpu_us", []).append(used / 1e3 / max(1, count))
    turns = [index if slices[index].is_counting else index + 1 for index in range(0, len(slices), 2)]
    turns = [index for index in turns if answered[index] and answered[index ^ 1]]  # else the machine stood still
    others = [index ^ 1 for index in turns]
    found: dict[str, Any] = {"pairs": len(turns)}
    for name, values in measured.items():
        own, other = [values[index] for index in turns], [values[index] for index in others]
        ratios = [mine / its for mine, its in zip(own, other, strict=True)]
        low, high = _interval(ratios)
        found[name] = {
            "counting": round(statistics.median(own), 2),
            "uncounted": round(statistics.median(other), 2),
            "difference": round(statistics.median(mine - its for mine, its in zip(own, other, strict=True)), 3),
            "ratio": round(statistics.median(ratios), 4),
            "ratio_95": [round(low, 4), round(high, 4)],
        }
    return found


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """In which the median lies with a certainty of 95 %, by resampling."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


def counting_cost(pairs: int, concurrencies: Sequence[int], protocols: Sequence[Protocol]) -> dict[str, Any]:
    """By protocol and concurrency."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, switched_server(Path(folder)) as running:
        pids = {name: running.children(module)[0] for name, module in PROCESSES.items()}
        for protocol in protocols:
            url = f"127.0.0.1:{running.grpc_port}" if protocol == "grpc" else running.http
            target = build_request(Subject(url, "mlp", protocol, timeout_s=TIMEOUT_S)).target
            for concurrency in concurrencies:
                found[f"{protocol}, {concurrency} at once"] = compare(
                    *asyncio.run(press(target, concurrency, pids, pairs))
                )
    return found
