"""Which thread spends what on a request: the frontend in the kernel and outside of it, the engine's two.

    python -m benchmarks.threads [--out benchmarks/results/threads.json]

Requests of the MLP over HTTP with binary tensors, 64 at once and one after the other, in several rounds by turns; the
median is told. Processor time is the scheduler's own count of each thread; how it divides between the kernel and the
rest is sampled by the kernel's clock, a hundred times a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Server, torchere_server
from benchmarks.stack import KINDS, Contender, press
from service.bench.levels import Level
from service.bench.processor import family
from service.bench.results import describe_machine, write_results
from service.bench.run import Terms
from service.bench.target import Subject, build_request

MODEL = "mlp"
CONCURRENCIES, ROUNDS = (64, 1), 3
LATE_S = 0.2  # statistics are as late as they may be


@dataclass(frozen=True, slots=True)
class Spent:
    """Nanoseconds on a processor, and the share of them in the kernel."""

    ran_ns: int
    user_ticks: int
    kernel_ticks: int

    def since(self, before: Spent) -> Spent:
        return Spent(
            self.ran_ns - before.ran_ns,
            self.user_ticks - before.user_ticks,
            self.kernel_ticks - before.kernel_ticks,
        )

    @property
    def kernel(self) -> float:
        return self.kernel_ticks / max(1, self.user_ticks + self.kernel_ticks)


def threads(pid: int) -> dict[int, Spent]:
    """Those of a process, as they were started."""
    found = {}
    for folder in sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda folder: int(folder.name)):
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ran_ns = int((folder / "schedstat").read_text().split()[0])
        found[int(folder.name)] = Spent(ran_ns, int(fields[11]), int(fields[12]))
    return found


def child(server: Server, module: str) -> int:
    """The one process of the service that runs this."""
    (found,) = [pid for pid in family(server.pid) if module in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
    return found


def reader(engine: dict[int, Spent]) -> int:
    """The thread that reads, of an engine that was busy: of the two that did most the one that was started first."""
    return min(sorted(engine, key=lambda thread: engine[thread].ran_ns)[-2:])


def answered(server: Server) -> int:
    time.sleep(LATE_S)
    with urllib.request.urlopen(f"{server.http}/v2/models/{MODEL}/stats") as answer:
        (found,) = json.load(answer)["model_stats"]
    return int(found["inference_count"])


def one_round(server: Server, concurrency: int, terms: Terms, reads: int = 0) -> tuple[dict[str, float], int]:
    """Microseconds of a request, by who spends them, beside the requests in a second; and the thread that reads.

    `reads` is that thread, where it is known from a round that kept the engine busy.
    """
    subject = Subject(server.http, MODEL, "http")
    contender = Contender(MODEL, KINDS["http"], build_request(subject), server.pid)
    pids = child(server, "service.frontend"), child(server, "service.engine.worker")
    count, before = answered(server), [threads(pid) for pid in pids]
    result = asyncio.run(press(contender, Level(concurrency), terms))
    requests, after = answered(server) - count, [threads(pid) for pid in pids]
    frontend, engine = (
        {thread: spent.since(old.get(thread, Spent(0, 0, 0))) for thread, spent in new.items()}
        for old, new in zip(before, after, strict=True)
    )
    reads = reads or reader(engine)
    loop, reading = frontend[pids[0]], engine[reads].ran_ns
    others = sum(each.ran_ns for each in frontend.values()) - loop.ran_ns
    parts = {
        "frontend, in the kernel": loop.ran_ns * loop.kernel,
        "frontend, outside of it": loop.ran_ns * (1 - loop.kernel) + others,
        "engine, the thread that reads": reading,
        "engine, its instance and others": sum(each.ran_ns for each in engine.values()) - reading,
    }
    spent = {name: nanoseconds / 1e3 / requests for name, nanoseconds in parts.items()}
    return {"requests/s": result.requests_per_s, **spent}, reads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=float, default=1.0, help="seconds")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--out", type=Path, help="file of the results")
    arguments = parser.parse_args()
    terms = Terms(warm_up_s=0.5, window_s=arguments.window, max_windows=arguments.windows)
    rounds: dict[int, list[dict[str, float]]] = {concurrency: [] for concurrency in CONCURRENCIES}
    reads = 0
    with torchere_server() as server:
        for _ in range(ROUNDS):
            for concurrency, found in rounds.items():
                row, reads = one_round(server, concurrency, terms, reads)
                found.append(row)
    rows = {
        str(concurrency): {name: round(statistics.median(each[name] for each in found), 1) for name in found[0]}
        for concurrency, found in rounds.items()
    }
    for which, row in rows.items():
        print(f"{which} at once: " + ", ".join(f"{name} {value:,.0f}" for name, value in row.items()))
    if arguments.out:
        command = " ".join(["python", "-m", "benchmarks.threads", *sys.argv[1:]])
        told = {"command": command, "machine": describe_machine(), "microseconds": rows, "rounds": rounds}
        write_results(arguments.out, told)


if __name__ == "__main__":
    main()
