"""How many frontends pay on how many cores: requests a second of one service bound to C cores, with F frontends.

    python -m benchmarks.frontends [--out benchmarks/results/frontends.json] [--max-seconds 190]

One service for each F; its processes are bound to the first C cores, for one C after the other, while the engine of
`torchere bench` presses from the last cores (a quarter of them; where there are fewer than four, from all). The MLP
costs nothing, so the stack is all that is seen; the CNN, on all the service's cores, shows what frontends cost a model
that needs the processor. Told beside the rate: how many cores the frontends and the engine kept busy. An engine of one
core is as much as its lock allows: more frontends cannot help then.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from benchmarks.servers import MODELS
from service.bench.levels import Level, parse_concurrency
from service.bench.messages import Protocol
from service.bench.processor import Usage
from service.bench.results import describe_machine, write_results
from service.bench.run import Terms, measure
from service.bench.summary import Result
from service.bench.target import Subject, build_request, try_once
from service.bench.windows import Window
from tests.e2e.running import RunningServer

FRONTENDS = (1, 2, 3, 4, 6, 8)
CORES = (2, 4, 8, 12, 16, 24, 32)
ENGINE, FRONTEND = "service.engine.worker", "service.frontend"
BACKENDS = ["eager", "torchscript"]  # compiled in seconds, and what is pressed is the stack
MAX_CLIENTS = 8
WARM_UP_S, WINDOW_S, WINDOWS = 0.3, 0.25, 3
ATTEMPT_S = 8.0  # of one row at most: what is begun later than that before the end is left out


@dataclass(frozen=True, slots=True)
class Case:
    """What is pressed, and by how many at once."""

    model: str
    protocol: Protocol
    concurrency: int


class Row(msgspec.Struct, frozen=True):
    """One case, on so many cores with so many frontends. `engine_cores` and `frontend_cores` were busy meanwhile."""

    cores: int
    frontends: int
    model: str
    protocol: str
    concurrency: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    server_us: float
    engine_cores: float
    frontend_cores: float
    client_core_share: float
    errors: int


class Busy:
    """Looks on while a level is measured: the cores that each kind of process kept busy, from the first window on."""

    def __init__(self, server: RunningServer) -> None:
        self._usage = {name: [Usage(pid) for pid in server.children(name)] for name in (ENGINE, FRONTEND)}
        self._first: tuple[float, dict[str, int]] | None = None
        self.cores = dict.fromkeys(self._usage, 0.0)

    def began(self, level: Level) -> None:
        pass

    def went_on(self, level: Level, windows: Sequence[Window], spread: float) -> None:
        now, read = time.monotonic(), self._read()
        if self._first is None:
            self._first = now, read
        elif now > self._first[0]:
            began, before = self._first
            self.cores = {name: (read[name] - before[name]) / 1e9 / (now - began) for name in read}

    def finished(self, result: Result) -> None:
        pass

    def skipped(self, level: Level, reason: str) -> None:
        pass

    def _read(self) -> dict[str, int]:
        return {name: sum(usage.read_ns() for usage in usages) for name, usages in self._usage.items()}


def divide(cores: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """(of the service, of the client): the last quarter is the client's; with fewer than four they share all."""
    own = len(cores) // 4
    return (cores[:-own], cores[-own:]) if own else (cores, cores)


def bind(pid: int, cores: Sequence[int]) -> None:
    """Every thread of the process; those to come inherit it."""
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            os.sched_setaffinity(int(task.name), cores)


def repository(folder: Path) -> Path:
    """The suite's models, to be compiled in seconds."""
    for name in ("mlp", "cnn"):
        shutil.copytree(MODELS / name, folder / name)
        config = yaml.safe_load((folder / name / "model.yaml").read_text())
        config["compile"] = {"backends": BACKENDS, "precision": ["fp32"]}
        (folder / name / "model.yaml").write_text(yaml.safe_dump(config))
    return folder


def press(server: RunningServer, case: Case, clients: int) -> tuple[Result, Busy] | None:
    """None where the server answered nothing in the time."""
    url = f"127.0.0.1:{server.grpc_port}" if case.protocol == "grpc" else server.http
    request = build_request(Subject(url, case.model, case.protocol))
    busy = Busy(server)
    terms = Terms(
        processes=clients,
        warm_up_s=WARM_UP_S,
        window_s=WINDOW_S,
        max_windows=WINDOWS,
        server_pid=server.process.pid,
        max_s=ATTEMPT_S,
    )

    async def run() -> list[Result]:
        await try_once(request.target)
        return await measure(request, [Level(case.concurrency)], terms, busy)

    results = asyncio.run(run())
    return (results[0], busy) if results else None


def row(cores: int, frontends: int, case: Case, result: Result, busy: Busy) -> Row:
    return Row(
        cores,
        frontends,
        case.model,
        case.protocol,
        case.concurrency,
        result.requests_per_s,
        result.latency_ms.get("p50", 0.0),
        result.latency_ms.get("p99", 0.0),
        result.server_cpu_us or 0.0,
        round(busy.cores[ENGINE], 2),
        round(busy.cores[FRONTEND], 2),
        result.client_core_share,
        result.error_count,
    )


def cases(concurrency: Sequence[int], is_whole: bool) -> Iterator[Case]:
    """The CNN only where the service has all its cores: its engine was told to compute on as many."""
    for protocol in ("http", "grpc"):
        for count in concurrency:
            yield Case("mlp", protocol, count)
    if is_whole:
        yield Case("cnn", "http", 64)


def sweep(given: argparse.Namespace, cores: Sequence[int]) -> Iterator[Row]:
    """Row after row; ends early where the time is over."""
    ends = time.monotonic() + given.max_seconds
    own, others = divide(cores)
    counts = sorted({count for count in given.cores if count < len(own)} | {len(own)})
    clients = given.clients or min(MAX_CLIENTS, max(1, len(others)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        models = repository(folder / "models")
        flags = ("--startup", "wait", "--device", "cpu", "--threads", str(len(own)))
        for frontends in [count for count in given.frontends if count <= len(own)]:
            os.sched_setaffinity(0, cores)
            with RunningServer(models, folder / "cache", folder, *flags, "--frontends", str(frontends)) as server:
                os.sched_setaffinity(0, others)
                pids = [server.process.pid, *server.children(ENGINE), *server.children(FRONTEND)]
                pids += server.children("service.observe.sidecar")
                for count in [count for count in counts if frontends <= count]:
                    for pid in pids:
                        bind(pid, own[:count])
                    for case in cases(given.concurrency, is_whole=count == len(own)):
                        if time.monotonic() > ends - ATTEMPT_S:
                            print(f"the {given.max_seconds:g} s are over: the rest is left out", file=sys.stderr)
                            return
                        if found := press(server, case, clients):
                            yield row(count, frontends, case, *found)


def show(rows: Sequence[Row]) -> None:
    columns = ["cores", "frontends", "model", "protocol", "at once", "requests/s", "p50 ms", "p99 ms", "server µs"]
    columns += ["engine's cores", "frontends' cores"]
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    for each in sorted(rows, key=lambda row: (row.model, row.protocol, row.concurrency, row.cores, row.frontends)):
        figures = f"{each.requests_per_s:,.0f} | {each.p50_ms:.2f} | {each.p99_ms:.2f} | {each.server_us:.0f}"
        busy = f"{each.engine_cores:.2f} | {each.frontend_cores:.2f}"
        what = f"{each.cores} | {each.frontends} | {each.model} | {each.protocol} | {each.concurrency}"
        print(f"| {what} | {figures} | {busy} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=parse_concurrency, default=CORES, help="of the service, as 2,4,8")
    parser.add_argument("--frontends", type=parse_concurrency, default=FRONTENDS, help="as 1,2,4")
    parser.add_argument("--concurrency", type=parse_concurrency, default=(64, 256), help="of the MLP, as 64,256")
    parser.add_argument("--clients", type=int, default=0, help="processes; 0: one for each of the client's cores")
    parser.add_argument("--max-seconds", type=float, default=190.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    machine, cores = describe_machine(), sorted(os.sched_getaffinity(0))
    rows: list[Row] = []
    for each in sweep(given, cores):
        rows.append(each)
        print(msgspec.json.encode(each).decode(), file=sys.stderr, flush=True)
        if given.out is not None:
            told: dict[str, Any] = {
                "command": shlex.join(["python", "-m", "benchmarks.frontends", *sys.argv[1:]]),
                "machine": machine,
                "service_cores": len(divide(cores)[0]),
                "rows": rows,
            }
            write_results(given.out, told)  # after each row: what was measured is kept, whatever comes
    show(rows)


if __name__ == "__main__":
    main()
