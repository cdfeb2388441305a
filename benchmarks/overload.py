"""Ten times more requests than can be done: how much is still done, and how soon the rest is refused.

    python -m benchmarks.overload [--out benchmarks/results/overload.json]

A model that sleeps so long for each batch, whatever its rows, so that what can be done is known and no core is needed
for it; with `--batch-ms 0` one that costs nothing, so that the frontend has too much to do. Its peak is found in a
closed loop; then requests come at ten times that rate at random moments, whatever became of those before. Refusals are
those of a full queue, and where requests grant so many milliseconds, of those that would come too late. Goodput counts
answers in time; told too is by how much the processes grew meanwhile. At the end, what a refusal costs gRPC's own
server, which ends each call as soon as it has it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from service.bench.levels import Level
from service.bench.messages import Protocol
from service.bench.results import describe_machine, write_results
from service.bench.run import Terms, measure
from service.bench.summary import Result
from service.bench.target import Subject, build_request, try_once
from service.bench.windows import Window
from tests.e2e.running import RunningServer, free_ports

ROWS, QUEUE = 8, 64  # of a batch, and requests that wait at most
PRESSING = 48  # at once, to find the peak: six batches, so that none waits for requests
CONNECTIONS = 1024
MODEL = """
import time
import torch

class Sleeping(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep({seconds})
        return x + 1

def create_model() -> torch.nn.Module:
    return Sleeping()
"""
CONFIG = f"""
trust: true
max_batch_size: {ROWS}
inputs:
  - {{name: x, datatype: FP32, shape: [-1, 4]}}
batching: {{max_queue_size: {QUEUE}}}
compile: {{backends: [eager]}}
"""
PROCESSES = {"engine": "service.engine.worker", "frontend": "service.frontend"}


class Quiet:
    """Nobody looks on."""

    def began(self, level: Level) -> None:
        pass

    def went_on(self, level: Level, windows: Sequence[Window], spread: float) -> None:
        pass

    def finished(self, result: Result) -> None:
        pass

    def skipped(self, level: Level, reason: str) -> None:
        pass


class Row(msgspec.Struct, frozen=True):
    """One protocol, backlog of gRPC and deadline. Milliseconds are of answers, or of refusals where it says so;
    `late_p99_ms` is by how much the client itself was late.
    """

    protocol: str
    backlog: int
    deadline_s: float
    batch_ms: float
    peak_per_s: float
    offered_per_s: float
    done_per_s: float
    share: float
    answered_p50_ms: float
    answered_p99_ms: float
    refused_p99_ms: float
    late_p99_ms: float
    errors: dict[str, int]
    server_us: float
    grew_kib: dict[str, int]


class Floor(msgspec.Struct, frozen=True):
    """What gRPC's own server does where every call is refused."""

    offered_per_s: float
    refused_p99_ms: float
    errors: dict[str, int]
    server_us: float


def repository(folder: Path, seconds: float) -> Path:
    (folder / "sleeping" / "1").mkdir(parents=True)
    (folder / "sleeping" / "1" / "model.py").write_text(MODEL.format(seconds=seconds))
    (folder / "sleeping" / "model.yaml").write_text(CONFIG)
    return folder


def resident_kib(server: RunningServer) -> dict[str, int]:
    """Of each kind of process."""
    return {
        name: sum(4 * int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in server.children(module))
        for name, module in PROCESSES.items()
    }


def press(server: RunningServer, subject: Subject, level: Level, seconds: float) -> Result:
    request = build_request(subject)
    terms = Terms(warm_up_s=1.0, window_s=seconds / 3, max_windows=3, steady_spread=0.0, server_pid=server.process.pid)

    async def run() -> Result:
        await try_once(request.target)
        results = await measure(request, [level], terms, Quiet())
        return results[0]

    return asyncio.run(run())


def overload(
    server: RunningServer, protocol: Protocol, backlog: int, deadline_s: float, given: argparse.Namespace
) -> Row:
    """The peak before and after, as others may use the machine; then the flood between."""
    url = f"127.0.0.1:{server.grpc_port}" if protocol == "grpc" else server.http
    plain, bounded = Subject(url, "sleeping", protocol), Subject(url, "sleeping", protocol, deadline_s=deadline_s)
    peaks = [press(server, plain, Level(PRESSING), given.seconds).requests_per_s]
    rate, before = given.times * peaks[0], resident_kib(server)
    flood = press(server, bounded, Level(CONNECTIONS, rate), 2 * given.seconds)
    after = resident_kib(server)
    peaks.append(press(server, plain, Level(PRESSING), given.seconds).requests_per_s)
    peak = statistics.mean(peaks)
    return Row(
        protocol,
        backlog,
        deadline_s,
        given.batch_ms,
        round(peak, 1),
        round(rate, 1),
        flood.requests_per_s,
        round(flood.requests_per_s / peak, 3),
        flood.latency_ms.get("p50", 0.0),
        flood.latency_ms.get("p99", 0.0),
        flood.error_p99_ms or 0.0,
        flood.late_p99_ms or 0.0,
        flood.errors,
        flood.server_cpu_us or 0.0,
        {name: after[name] - before[name] for name in after},
    )


def refuse_all(server: RunningServer, rate: float, seconds: float) -> Floor:
    """The same calls, at the same rate, to a server of grpc.aio that refuses each in the same words."""
    (port,) = free_ports(1)
    request = build_request(Subject(f"127.0.0.1:{server.grpc_port}", "sleeping", "grpc"))
    command = [sys.executable, "-m", "benchmarks.floors.rpc", str(port), "refuse"]
    with subprocess.Popen(command) as process:
        try:
            wait_until_open(port)
            target = msgspec.structs.replace(request.target, port=port)
            terms = Terms(warm_up_s=1.0, window_s=seconds, max_windows=1, steady_spread=0.0, server_pid=process.pid)
            level = Level(CONNECTIONS, rate)
            (result,) = asyncio.run(measure(dataclasses.replace(request, target=target), [level], terms, Quiet()))
        finally:
            process.kill()
    return Floor(rate, result.error_p99_ms or 0.0, result.errors, result.server_cpu_us or 0.0)


def wait_until_open(port: int) -> None:
    """Return when somebody listens there."""
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-ms", type=float, default=20.0, help="that a batch of 8 takes")
    parser.add_argument("--times", type=float, default=10.0, help="what comes, in peaks")
    parser.add_argument("--deadlines-ms", type=float, nargs="+", default=[0.0, 100.0], help="0: it grants any time")
    parser.add_argument("--protocols", nargs="+", choices=("http", "grpc"), default=["http", "grpc"])
    parser.add_argument("--backlogs", type=int, nargs="+", default=[1000], help="each another server, for gRPC")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    machine, rows, floor = describe_machine(), [], None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = repository(folder / "models", given.batch_ms / 1000)
        for backlog in given.backlogs:
            flags = ("--startup", "wait", "--device", "cpu", "--frontends", "0", "--grpc-backlog", str(backlog))
            with RunningServer(models, folder / "cache", folder, *flags) as server:
                for protocol, deadline_ms in itertools.product(given.protocols, given.deadlines_ms):
                    if protocol == "grpc" or backlog == given.backlogs[0]:
                        rows.append(overload(server, protocol, backlog, deadline_ms / 1000, given))
                        print(msgspec.json.encode(rows[-1]).decode(), flush=True)
                if "grpc" in given.protocols and floor is None:
                    floor = refuse_all(server, rows[-1].offered_per_s, given.seconds)
                    print(msgspec.json.encode(floor).decode(), flush=True)
    if given.out is not None:
        command = shlex.join(["python", "-m", "benchmarks.overload", *sys.argv[1:]])
        write_results(given.out, {"command": command, "machine": machine, "rows": rows, "floor": floor})


if __name__ == "__main__":
    main()
