"""What metrics cost: requests per second with and without counting, nanoseconds of a count, milliseconds of a scrape.

    python -m benchmarks.metrics_cost [--out benchmarks/results/metrics.json]

Two servers run the MLP 64-64-10 all the time, one of which counts nothing (`uncounted/`); HTTP with binary tensors at
concurrency 64 presses them in turn, the order changing from round to round, and the median of the rounds' ratios is
told. Processor time of the server per request is told too: on a busy machine it varies less than the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import shlex
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.servers import MODELS
from benchmarks.stack import Contender, press
from service.bench.levels import Level
from service.bench.results import describe_machine, write_results
from service.bench.run import Terms
from service.bench.target import Subject, build_request
from service.observe.exposition import OPENMETRICS_TYPE, TEXT_TYPE
from service.observe.protobuf import PROTOBUF_TYPE
from service.observe.recorders import BatchRecorder, RequestRecorder
from service.observe.sidecar import Publisher
from service.observe.store import Store
from tests.e2e.running import RunningServer

CONCURRENCY, TIMEOUT_S = 64, 30.0
CALLS, REPEATS = 20_000, 7
SCRAPED_MODELS, SCRAPED_FRONTENDS, SCRAPES = 100, 4, 15
UNCOUNTED = Path(__file__).parent / "uncounted"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@contextmanager
def server(cache: Path, logs: Path, *, counts: bool) -> Iterator[RunningServer]:
    """torchere with the MLP; with `uncounted` before all else where it shall not count."""
    before = os.environ.get("PYTHONPATH")
    if not counts:
        os.environ["PYTHONPATH"] = f"{UNCOUNTED}{os.pathsep}{MODELS.parents[1]}"
    flags = ("--models", "mlp", "--startup", "wait", "--frontends", "1")
    try:
        with RunningServer(MODELS, cache, logs, *flags) as running:
            yield running
    finally:
        if before is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = before


def throughput(rounds: int, terms: Terms) -> dict[str, Any]:
    """Each round presses both, one right after the other."""
    found: dict[str, list[tuple[float, float]]] = {"counting": [], "uncounted": []}
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        cache = logs / "cache"
        with server(cache, logs, counts=True) as counting, server(cache, logs, counts=False) as uncounted:
            contenders = {}
            for name, running in (("counting", counting), ("uncounted", uncounted)):
                subject = Subject(running.http, "mlp", "http", timeout_s=TIMEOUT_S)
                contenders[name] = Contender("mlp", name, build_request(subject), running.process.pid)
            for number in range(rounds):
                for name in sorted(contenders, reverse=bool(number % 2)):
                    result = asyncio.run(press(contenders[name], Level(CONCURRENCY), terms))
                    found[name].append((result.requests_per_s, result.server_cpu_us or 0.0))
    pairs = list(zip(found["counting"], found["uncounted"], strict=True))
    return {
        "concurrency": CONCURRENCY,
        "rounds": rounds,
        "requests_per_s": {name: [round(rate) for rate, _ in each] for name, each in found.items()},
        "server_cpu_us": {name: [round(spent, 1) for _, spent in each] for name, each in found.items()},
        "median_loss_of_rate": round(1 - statistics.median(own[0] / other[0] for own, other in pairs), 4),
        "median_gain_of_cpu": round(statistics.median(own[1] / other[1] for own, other in pairs) - 1, 4),
    }


def nanoseconds(call: Callable[[], object]) -> int:
    """Of one call, the best of several repeats: the least disturbed."""
    return round(min(timeit.repeat(call, number=CALLS, repeat=REPEATS)) / CALLS * 1e9)


def counts(directory: Path) -> dict[str, int]:
    """Nanoseconds of each count on the way of a request; a batch is of eight requests."""
    store = Store(directory)
    requests, batches = RequestRecorder(store), BatchRecorder(store, "mlp", "1")
    queue_ns, phases_ns = [120_000] * 8, (1_000, 2_000, 300_000, 4_000)
    found = {
        "request_finished": nanoseconds(lambda: requests.finished("mlp", "1", "http", "success", 0.0012, 1)),
        "answer_encoded": nanoseconds(lambda: requests.encoded("mlp", "1", 0.00002)),
        "request_traced": nanoseconds(lambda: requests.traced("mlp", "1", "http", 0.0012, TRACE)),
        "queue_depth": nanoseconds(lambda: batches.depth(3)),
        "batch_of_8": nanoseconds(lambda: batches.batch(queue_ns, phases_ns, 8, 8)),
        "batch_dispatched_and_settled": nanoseconds(lambda: (batches.dispatched("idle", 8), batches.settled(8))),
    }
    of_batch = found["batch_of_8"] + found["batch_dispatched_and_settled"]
    of_request = found["request_finished"] + found["answer_encoded"] + found["queue_depth"]
    store.close()
    return {**found, "a_request_in_a_batch_of_8": of_request + of_batch // 8}


def scrapes(directory: Path) -> dict[str, Any]:
    """Milliseconds of a scrape of many models, each counted by every frontend in both protocols and by an engine."""
    stores = [Store(directory) for _ in range(SCRAPED_FRONTENDS + 1)]
    for number in range(SCRAPED_MODELS):
        for store in stores[1:]:
            requests = RequestRecorder(store)
            for protocol in ("http", "grpc"):
                requests.finished(f"model_{number}", "1", protocol, "success", 0.0012 * (1 + number), 1)
            requests.encoded(f"model_{number}", "1", 0.00002)
        engine = BatchRecorder(stores[0], f"model_{number}", "1")
        engine.dispatched("idle", 2)
        engine.batch([1000, 2000 * number], (10_000, 20_000, 3_000_000 + number, 40_000), 4, 8)
    found: dict[str, Any] = {"models": SCRAPED_MODELS, "processes": len(stores)}
    types = {"text": TEXT_TYPE, "openmetrics": OPENMETRICS_TYPE, "protobuf": PROTOBUF_TYPE}
    for aliases in ("none", "triton"):
        publisher = Publisher(directory, aliases)  # type: ignore[arg-type]
        for name, accept in types.items():
            spent, body = [], b""
            for _ in range(SCRAPES):
                began = time.perf_counter()
                _, body = publisher.scrape(accept)
                spent.append((time.perf_counter() - began) * 1e3)
            began = time.perf_counter()
            packed = gzip.compress(body, 1)
            found[f"{name}, aliases {aliases}"] = {
                "median_ms": round(statistics.median(spent), 1),
                "best_ms": round(min(spent), 1),
                "bytes": len(body),
                "packed_bytes": len(packed),
                "packing_ms": round((time.perf_counter() - began) * 1e3, 1),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="file for the results, as JSON")
    arguments = parser.parse_args()
    told: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.metrics_cost", *sys.argv[1:]]),
        "machine": describe_machine(),
    }
    for name, measure in (("nanoseconds", counts), ("scrape", scrapes)):
        with tempfile.TemporaryDirectory() as folder:
            told[name] = measure(Path(folder))
        print(name, told[name])
    if arguments.rounds:
        terms = Terms(warm_up_s=0.5, window_s=1.0, max_windows=3)
        told["throughput"] = throughput(arguments.rounds, terms)
        print("throughput", told["throughput"])
    if arguments.out:
        write_results(arguments.out, told)


if __name__ == "__main__":
    main()
