"""What Ray Serve costs: the same model behind `torchere serve` and as an application of Ray Serve, in one run.

    python -m benchmarks.ray [--out benchmarks/results/ray.json]      (after `make ray`)

The MLP 64-64-10, which costs nothing, so that all that is seen is the way to it; one row of binary tensors a request.
Behind Ray: HTTP by Ray's proxy, then the ingress, then the replica; gRPC by the ingress's own port, then the replica.
One replica and one ingress, all on this machine. Both run all the time and are pressed one right after the other; of
the rounds the one of median rate is told.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.servers import MODELS
from benchmarks.stack import Contender, middle, press
from service.bench.levels import Level
from service.bench.results import describe_machine, write_results
from service.bench.run import Terms
from service.bench.summary import Result
from service.bench.target import Subject, build_request
from tests.e2e.ray_running import RAY, RayCluster
from tests.e2e.running import RunningServer

MODEL, TIMEOUT_S = "mlp", 30.0
LEVELS = (1, 8, 64)
Told = list[tuple[str, Result]]


def run(levels: Sequence[Level], terms: Terms, rounds: int) -> Told:
    """A result for each contender and level."""
    found: dict[tuple[str, Level], list[Result]] = {}
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        shutil.copytree(MODELS / MODEL, logs / "models" / MODEL)
        flags = ("--startup", "wait", "--frontends", "1", "--threads", "1")
        with RunningServer(logs / "models", logs / "cache", logs, *flags) as plain, RayCluster(logs) as cluster:
            cluster.deploy(logs / "models", logs / "cache", max_replicas=1)
            every = [
                _contender("torchere serve, HTTP", plain.http, "http", plain.process.pid),
                _contender("Ray Serve, HTTP", cluster.http, "http", cluster.process.pid),
                _contender("torchere serve, gRPC", f"127.0.0.1:{plain.grpc_port}", "grpc", plain.process.pid),
                _contender("Ray Serve, gRPC", cluster.grpc, "grpc", cluster.process.pid),
            ]
            for _ in range(rounds):
                for level in levels:
                    for each in every:
                        found.setdefault((each.kind, level), []).append(asyncio.run(press(each, level, terms)))
    return [(kind, middle(results)) for (kind, _), results in found.items()]


def _contender(kind: str, url: str, protocol: str, pid: int) -> Contender:
    return Contender(MODEL, kind, build_request(Subject(url, MODEL, protocol, timeout_s=TIMEOUT_S)), pid)


def show(told: Told) -> None:
    table = Table(title="MLP 64-64-10, one row a request", title_justify="left")
    for column in ("way", "concurrency", "requests/s", "p50 ms", "p99 ms", "server µs", "errors"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for kind, result in told:
        latency = [f"{result.latency_ms[name]:.3g}" if name in result.latency_ms else "" for name in ("p50", "p99")]
        rate, cpu = f"{result.requests_per_s:,.0f}", f"{result.server_cpu_us or 0:,.0f}"
        table.add_row(kind, str(result.level.concurrency), rate, *latency, cpu, str(result.error_count))
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file for the results")
    arguments = parser.parse_args()
    if not (RAY / ".installed").exists():
        raise SystemExit("Ray is not there: `make ray` fetches it")
    machine: dict[str, Any] = describe_machine()
    told = run([Level(each) for each in LEVELS], Terms(warm_up_s=0.5, window_s=1.0, max_windows=5), arguments.rounds)
    show(told)
    if arguments.out is not None:
        command = shlex.join(["python", "-m", "benchmarks.ray", *sys.argv[1:]])
        rows = [{"way": kind, **msgspec.to_builtins(result)} for kind, result in told]
        write_results(arguments.out, {"command": command, "machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
