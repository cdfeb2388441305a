"""Whether a service's memory grows: each process's, over a million requests of all kinds, and its slope.

    python -m benchmarks.growth [--requests 1000000] [--out benchmarks/results/growth.json]

The suite's models over HTTP with binary tensors and JSON and over gRPC, in turns, by the engine of `torchere bench`, on
new connections each turn; beside it a few clients that send right requests and wrong ones and leave amid them. The
first quarter is left out: allocators fill their pools. RSS counts what is shared with other processes in each, PSS its
part. The frontend is looked at also before, and after many connections at once over each protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import random
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np

from benchmarks.servers import MODELS
from service import heap
from service.bench.levels import Level
from service.bench.messages import Protocol
from service.bench.results import describe_machine, write_results
from service.bench.run import Terms, measure
from service.bench.show import Progress
from service.bench.target import Request, Subject, build_request
from tests.e2e.running import RunningServer

EVERY_S = 2.0
SETTLING = 0.25  # of the samples
TURNS = (("mlp", "http", 64, 8), ("mlp", "grpc", 64, 4), ("cnn", "http", 16, 2), ("mlp", "http-json", 16, 2))
KINDS = {
    "parent": "service.cli",
    "frontend": "service.frontend",
    "engine": "service.engine.worker",
    "sidecar": "service.observe.sidecar",
}
FRONTEND = list(KINDS).index("frontend")
ANNOYING = 4  # clients
CROWD = 256  # connections at once
CALM_S = 2 * heap.EVERY_S  # by then what a peak took is given back
PATH = "/v2/models/mlp/infer"


@dataclass(slots=True)
class Samples:
    """Rows of: seconds, requests so far, and of each process RSS and PSS in MiB."""

    rows: list[list[float]] = field(default_factory=list)
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)  # of the frontend: RSS and PSS in MiB

    def slopes(self) -> dict[str, dict[str, float]]:
        """What is held at the end, and the growth in a million requests after the first quarter."""
        kept = np.array(self.rows[int(SETTLING * len(self.rows)) :])
        millions = kept[:, 1] / 1e6
        found = {}
        for index, name in enumerate(KINDS):
            rss, pss = kept[:, 2 + 2 * index], kept[:, 3 + 2 * index]
            found[name] = {
                "rss_mib": round(float(rss[-1]), 1),
                "pss_mib": round(float(pss[-1]), 1),
                "first_rss_mib": round(self.rows[0][2 + 2 * index], 1),
                "rss_mib_per_million": round(float(np.polyfit(millions, rss, 1)[0]), 2),
                "pss_mib_per_million": round(float(np.polyfit(millions, pss, 1)[0]), 2),
            }
        return found


def held_mib(pid: int) -> tuple[float, float]:
    """RSS and PSS."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    named = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return int(named["Rss"]) / 1024, int(named["Pss"]) / 1024


def sample(server: RunningServer, samples: Samples, pids: Sequence[int], stop: threading.Event) -> None:
    """Every few seconds, until it is over; a process that ends makes it end too."""
    began = time.monotonic()
    while not stop.wait(EVERY_S):
        count = server.metric("torchere_requests_total")
        held = itertools.chain.from_iterable(map(held_mib, pids))
        samples.rows.append([round(time.monotonic() - began, 1), count, *(round(each, 2) for each in held)])


class Annoying(threading.Thread):
    """One client that sends whatever comes to its mind until it is told to stop."""

    def __init__(self, url: str, payload: bytes, stop: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self._address = (urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 80)
        self._head, _, self._body = payload.partition(b"\r\n\r\n")
        self._stop_event = stop
        self._chance = random.Random(seed)

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        while not self._stop_event.is_set():
            draw = self._chance.random()
            if draw < 0.2:
                self._leave()
            elif draw < 0.3:
                connection.close()
            wrong = self._body[: self._chance.randrange(len(self._body))]
            try:
                connection.request("POST", PATH, wrong)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
            time.sleep(0.01)  # the others are to come to a million

    def _leave(self) -> None:
        with socket.create_connection(self._address, timeout=30) as left:
            whole = self._head + b"\r\n\r\n" + self._body
            left.sendall(whole[: self._chance.choice([10, len(self._head) + 10, len(whole)])])


def press(requests: Sequence[Request], server: RunningServer, wanted: int) -> None:
    """Turn after turn, until so many requests were answered."""
    while True:
        for request, (model, protocol, concurrency, windows) in zip(requests, TURNS, strict=True):
            terms = Terms(warm_up_s=0.2, window_s=1.0, max_windows=windows, steady_spread=0.0)
            with Progress(f"{model}, {protocol}") as progress:
                asyncio.run(measure(request, [Level(concurrency)], terms, progress))
            if server.metric("torchere_requests_total") >= wanted:
                return


def crowd(requests: Sequence[Request], pid: int, stages: dict[str, tuple[float, float]]) -> None:
    """Many connections of each kind, one kind after the other, and what the frontend holds then and later."""
    for request, (model, protocol, _, _) in zip(requests[:2], TURNS, strict=False):
        terms = Terms(warm_up_s=0.2, window_s=1.0, max_windows=3, steady_spread=0.0)
        with Progress(f"{model}, {protocol}") as progress:
            asyncio.run(measure(request, [Level(CROWD)], terms, progress))
        stages[f"right after {CROWD} connections at once, {protocol}"] = held_mib(pid)
    time.sleep(CALM_S)
    stages[f"{CALM_S:.0f} s later"] = held_mib(pid)


def run(given: argparse.Namespace) -> Samples:
    samples, stop = Samples(), threading.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = ("--startup", "wait", "--frontends", str(given.frontends))
        with RunningServer(MODELS, given.cache or folder / "cache", folder, *flags) as server:
            pids = [server.process.pid, *(server.children(module)[0] for module in list(KINDS.values())[1:])]
            samples.stages["started"] = held_mib(pids[FRONTEND])
            assert server.get("/v2")[0] == 200
            samples.stages["after the first request that is no inference"] = held_mib(pids[FRONTEND])
            requests = []
            for model, protocol, _, _ in TURNS:
                url = f"127.0.0.1:{server.grpc_port}" if protocol == "grpc" else server.http
                requests.append(build_request(Subject(url, model, cast(Protocol, protocol))))
            others: list[threading.Thread] = [
                Annoying(server.http, requests[0].target.payload, stop, seed) for seed in range(ANNOYING)
            ]
            others.append(threading.Thread(target=sample, args=(server, samples, pids, stop), daemon=True))
            for other in others:
                other.start()
            press(requests, server, given.requests)
            stop.set()
            for other in others:
                other.join()
            samples.stages["after all requests"] = held_mib(pids[FRONTEND])
            crowd(requests, pids[FRONTEND], samples.stages)
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--frontends", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="of compiled models, to start sooner")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    machine = describe_machine()
    samples = run(given)
    slopes, (seconds, count, *_) = samples.slopes(), samples.rows[-1]
    print(f"{count:,.0f} requests in {seconds:.0f} s")
    print("| process | RSS, MiB | PSS, MiB | RSS, MiB in a million requests | PSS |")
    print("|---|---|---|---|---|")
    for name, each in slopes.items():
        growth = f"{each['rss_mib_per_million']:+.2f} | {each['pss_mib_per_million']:+.2f}"
        print(f"| {name} | {each['rss_mib']} | {each['pss_mib']} | {growth} |")
    stages = {name: [round(each, 1) for each in held] for name, held in samples.stages.items()}
    print("\n| frontend | RSS, MiB | PSS |\n|---|---|---|")
    for name, (rss, pss) in stages.items():
        print(f"| {name} | {rss} | {pss} |")
    if given.out is not None:
        command = shlex.join(["python", "-m", "benchmarks.growth", *sys.argv[1:]])
        content = {"command": command, "machine": machine, "requests": count, "processes": slopes, "frontend": stages}
        write_results(given.out, {**content, "columns": ["s", "requests", *KINDS], "samples": samples.rows})


if __name__ == "__main__":
    main()
