"""What loading, compiling and unloading one model costs the requests of another: latency of a small model meanwhile.

    python -m benchmarks.interference --seconds 15 > benchmarks/results/interference.json

Requests at a constant rate, timed from when each should have begun, so that one that is held up counts for those behind
it too. The other model is compiled first, then loaded from the cache and unloaded, again and again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.running import RunningServer

ROOT = Path(__file__).parents[1]
SMALL, LARGE = "mlp", "efficientnet_lite0"
RATE = 100.0  # requests in a second: far from what it can do, so that what is late was held up
REPEATS = 3
WARM_UP_S = 3.0
BACKENDS = ("eager", "torchscript", "inductor")


def repository(folder: Path, backends: list[str]) -> Path:
    """Both models, to be compiled in a few minutes at most."""
    for name, source in ((SMALL, ROOT / "benchmarks" / "models"), (LARGE, ROOT / "models")):
        shutil.copytree(source / name, folder / name)
        config = yaml.safe_load((folder / name / "model.yaml").read_text())
        config["compile"] = {**config.get("compile", {}), "backends": backends, "precision": ["fp32"]}
        (folder / name / "model.yaml").write_text(yaml.safe_dump(config))
    return folder


class Probe:
    """Asks the small model all the time; `of(action)` are the milliseconds of what was due while it ran."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._due: list[tuple[float, float]] = []  # when, and how long until its answer
        self._stop = False

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.http_port)
        x = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
        body = json.dumps({"inputs": [x]}).encode()
        head = f"POST /v2/models/{SMALL}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        began, number = time.perf_counter(), 0
        while not self._stop:
            due = began + number / RATE
            number += 1
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            self._due.append((due, 1000 * (time.perf_counter() - due)))
        writer.close()

    def stop(self) -> None:
        self._stop = True

    async def of(self, action: Callable[[], Awaitable[None]]) -> list[float]:
        began = time.perf_counter()
        await action()
        ended = time.perf_counter()
        return [taken for due, taken in self._due if began <= due <= ended]


def summary(milliseconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(milliseconds, n=100)
    return {
        "requests": len(milliseconds),
        "p50_ms": round(cuts[49], 2),
        "p99_ms": round(cuts[98], 2),
        "max_ms": round(max(milliseconds), 2),
    }


async def measure(server: RunningServer, quiet_s: float) -> dict[str, Any]:
    """All phases, one after the other."""
    probe, results = Probe(server), {}
    asking = asyncio.create_task(probe.run())

    async def change(what: str) -> None:
        status, answer = await asyncio.to_thread(server.post, f"/v2/repository/models/{LARGE}/{what}", b"{}")
        assert status == 200, answer

    async def compiled() -> None:
        await change("load")
        await asyncio.to_thread(server.wait_for, lambda: not is_compiling(server), "it to be compiled")

    await asyncio.sleep(WARM_UP_S)
    results["nothing else"] = summary(await probe.of(lambda: asyncio.sleep(quiet_s)))
    results["compiling"] = summary(await probe.of(compiled))
    loading, unloading = [], []
    for _ in range(REPEATS):
        unloading += await probe.of(lambda: change("unload"))
        loading += await probe.of(lambda: change("load"))
    results["loading from the cache"], results["unloading"] = summary(loading), summary(unloading)
    results["nothing else, at the end"] = summary(await probe.of(lambda: asyncio.sleep(quiet_s)))
    probe.stop()
    await asking
    return results


def is_compiling(server: RunningServer) -> bool:
    return any(entry["optimization"] == "compiling" for entry in server.get("/v1/models")[1]["entries"])


def main() -> None:
    """Start a server of its own, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="how long to watch where nothing else happens")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="what the models may be compiled to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        models = repository(folder / "models", options.backends.split(","))
        flags = ("--model-control-mode", "explicit", "--load-model", SMALL)
        with RunningServer(models, folder / "cache", folder, *flags) as server:
            server.wait_for(lambda: not is_compiling(server), "the small model to be compiled")
            results = asyncio.run(measure(server, options.seconds))
    told = {"cores": os.cpu_count(), "backends": options.backends, "rate": RATE, "phases": results}
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
