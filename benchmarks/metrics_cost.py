"""What metrics cost: a server's time for each request with and without counting, of a count, and of a scrape.

    python -m benchmarks.metrics_cost [--out benchmarks/results/metrics.json]
    python -m benchmarks.metrics_cost --protocols http --concurrencies 64 --out FILE    # the rest of FILE stays

A server runs the MLP 64-64-10 under HTTP with binary tensors and gRPC, and counts every other fifth of a second
(`counting_cost.py`). Medians of the pairs' ratios are told with the interval in which they lie with 95 % certainty, of
the rate and of the processor time for each request, which varies less.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import shlex
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.counting_cost import counting_cost
from service.bench.messages import Protocol
from service.bench.results import describe_machine, write_results
from service.observe.batch_recorder import BatchRecorder, Later, Visited
from service.observe.exposition import OPENMETRICS_TYPE, TEXT_TYPE
from service.observe.protobuf import PROTOBUF_TYPE
from service.observe.recorders import RequestRecorder
from service.observe.sidecar import Publisher
from service.observe.store import Store

CONCURRENCIES = (64, 1)
PROTOCOLS: tuple[Protocol, ...] = ("http", "grpc")
CALLS, REPEATS = 20_000, 7
SCRAPED_MODELS, SCRAPED_FRONTENDS, SCRAPES = 100, 4, 15
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def nanoseconds(call: Callable[[], object], calls: int = CALLS) -> int:
    """Of one call, the best of several repeats: the least disturbed."""
    return round(min(timeit.repeat(call, number=calls, repeat=REPEATS)) / calls * 1e9)


def counts(directory: Path) -> dict[str, int]:
    """Nanoseconds of each count on the way of a request, with nothing else between two counts.

    64 answers in one turn of the loop and a batch of 32 are what HTTP at concurrency 64 brings. Counted together is
    what comes within the lag at 20,000 requests/s, or at 2,500 of a client that is alone.
    """
    store = Store(directory)
    requests = RequestRecorder(store)
    batches = BatchRecorder(store, "mlp", "1", Unvisited())
    tally = requests.tally("mlp", "1", "http", 1)
    phases_ns = (1_000, 2_000, 300_000, 4_000)

    def answers(turns: int, each: int) -> None:
        for _ in range(turns):
            now = time.monotonic() - 0.0012
            for index in range(each):
                tally.add(now + index / 1e5)
            requests.turned()
        requests.settle()

    def run(count: int, each: int) -> None:
        queue_ns = [1_000_000 - 31_000 * index for index in range(each)]
        for _ in range(count):
            batches.dispatched("idle", each)
            batches.batch(queue_ns, phases_ns, each, each)
            batches.settled(each)
        batches.count()

    def answered(turns: int, each: int) -> int:
        return asyncio.run(in_a_loop(lambda: answers(turns, each))) // (turns * each)

    found = {
        "answer_among_64": answered(30, 64),
        "answer_alone": answered(250, 1),
        "request_in_a_batch_of_32": nanoseconds(lambda: run(28, 32), CALLS // 400) // (28 * 32),
        "request_in_a_batch_of_1": nanoseconds(lambda: run(100, 1), CALLS // 100) // 100,
        "request_in_the_usual_way": nanoseconds(lambda: requests.finished("mlp", "1", "http", "success", 0.0012, 1))
        + nanoseconds(lambda: requests.encoded("mlp", "1", 0.00002)),
        "request_traced": nanoseconds(lambda: requests.traced("mlp", "1", "http", 0.0012, TRACE)),
    }
    store.close()
    return found


class Unvisited(Later):
    """Without a thread: who counts does so itself."""

    def __init__(self) -> None:
        pass

    def visit(self, who: Visited) -> None:
        """Never."""


async def in_a_loop(call: Callable[[], object]) -> int:
    """Nanoseconds of a call that needs a loop."""
    return nanoseconds(call, CALLS // 400)


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
        publisher = Publisher(directory, aliases)
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
    parser.add_argument("--pairs", type=int, default=200, help="of slices, with and without counting; 0: none")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=PROTOCOLS)
    parser.add_argument("--concurrencies", nargs="+", type=int, default=CONCURRENCIES)
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
    if arguments.pairs:
        told["counting"] = counting_cost(arguments.pairs, arguments.concurrencies, arguments.protocols)
        print("counting", told["counting"])
    if arguments.out:
        if arguments.out.exists():
            told["counting"] = json.loads(arguments.out.read_text()).get("counting", {}) | told.get("counting", {})
        write_results(arguments.out, told)


if __name__ == "__main__":
    main()
