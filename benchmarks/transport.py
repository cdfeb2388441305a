"""What large tensors cost on their way: through memory that frontends share with the engine, beside through the socket.

    python -m benchmarks.transport [--out benchmarks/results/transport.json]

Two servers run all the time, one of them with --transport-memory 0, and are pressed one right after the other, in
several rounds; the models cost next to nothing. Told is the processor time of each request (median of the rounds), that
of the frontends and that of the engine apart: on a busy machine they are steadier than rates. 256 bytes are there to
show that small tensors pay nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.stack import PLAIN_WIDTH, TIMEOUT_S, no_statistics
from service.bench.levels import Level
from service.bench.messages import Protocol
from service.bench.processor import Usage
from service.bench.results import describe_machine, write_results
from service.bench.run import Terms, measure
from service.bench.show import Progress
from service.bench.target import Subject, build_request, try_once
from tests.e2e.running import RunningServer

MODEL = """import torch

class Model(torch.nn.Module):
    def forward(self, x):
        return {result}

def create_model():
    return Model()
"""
FIRST = "x.flatten(1)[:, :10].float()"
CONFIG = """description: Takes {shape} {datatype}
trust: true
max_batch_size: 32
compile: {{backends: eager}}
inputs: [{{name: x, datatype: {datatype}, shape: [-1, {shape}]}}]
outputs: [{{name: y, datatype: {out}, shape: [-1, {size}]}}]
"""
# name -> shape, datatype, what is answered, its datatype and size
MODELS = {
    "256 B": ("64", "FP32", FIRST, "FP32", "10"),
    "48 KB": ("3, 64, 64", "FP32", FIRST, "FP32", "10"),
    "150 KB": ("3, 224, 224", "UINT8", FIRST, "FP32", "10"),
    "600 KB": ("3, 224, 224", "FP32", FIRST, "FP32", "10"),
    "150 KB back": ("64", "FP32", "x[:, :1].to(torch.uint8).repeat(1, 150528)", "UINT8", "150528"),
}
SERVERS = {"socket": ("--transport-memory", "0"), "shared memory": ()}
LEVEL = Level(16)


def write_models(folder: Path, names: Sequence[str]) -> None:
    """As a repository has them."""
    for name in names:
        shape, datatype, result, out, size = MODELS[name]
        model = folder / name_of(name)
        (model / "1").mkdir(parents=True)
        (model / "1" / "model.py").write_text(MODEL.format(result=result))
        (model / "model.yaml").write_text(CONFIG.format(shape=shape, datatype=datatype, out=out, size=size))


def name_of(model: str) -> str:
    return model.lower().replace(" ", "_")


async def press(server: RunningServer, model: str, protocol: Protocol, terms: Terms) -> dict[str, float]:
    """Requests per second, and microseconds of each request: of the whole server, and of its engine."""
    url = f"127.0.0.1:{server.grpc_port}" if protocol == "grpc" else server.http
    request = build_request(Subject(url, name_of(model), protocol, timeout_s=TIMEOUT_S))
    await try_once(request.target)
    (engine,) = server.children("service.engine.worker")
    usage = [Usage(engine), Usage(server.process.pid)]
    before = [each.read_ns() for each in usage]
    with Progress(f"{model}, {protocol}") as progress:
        own = dataclasses.replace(terms, server_pid=server.process.pid)
        (result,) = await measure(request, [LEVEL], own, progress, no_statistics)
    if result.errors:
        raise SystemExit(f"{model}, {protocol}: {result.errors}")
    of_engine, of_all = (each.read_ns() - start for each, start in zip(usage, before, strict=True))
    spent_us = result.server_cpu_us or 0.0
    return {"rate": result.requests_per_s, "server_us": spent_us, "engine_us": spent_us * of_engine / max(of_all, 1)}


def run(names: Sequence[str], protocols: Sequence[Protocol], rounds: int, terms: Terms) -> list[dict[str, Any]]:
    """A row for each model, protocol and server: the medians of all rounds."""
    found: dict[tuple[str, Protocol, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        write_models(root / "models", names)
        servers = {
            way: stack.enter_context(RunningServer(root / "models", root / "cache", root, "--startup", "wait", *flags))
            for way, flags in SERVERS.items()
        }
        for _ in range(rounds):
            for name in names:
                for protocol in protocols:
                    for way, server in servers.items():
                        each = asyncio.run(press(server, name, protocol, terms))
                        found.setdefault((name, protocol, way), []).append(each)
    return [
        {"model": name, "protocol": protocol, "way": way}
        | {key: round(statistics.median(each[key] for each in several), 1) for key in several[0]}
        for (name, protocol, way), several in found.items()
    ]


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"Concurrency {LEVEL.concurrency}, one row a request", title_justify="left")
    for column in ("model", "protocol", "by way of", "requests/s", "server µs", "engine µs"):
        table.add_column(column, justify="right" if column[-1] == "s" else "left")
    for row in rows:
        numbers = [f"{row[key]:,.0f}" for key in ("rate", "server_us", "engine_us")]
        table.add_row(row["model"], row["protocol"], row["way"], *numbers)
    (Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--protocols", nargs="+", choices=["http", "grpc"], default=["http", "grpc"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    machine = describe_machine()
    rows = run(arguments.models, arguments.protocols, arguments.rounds, Terms(warm_up_s=0.5, max_windows=3))
    show(rows)
    if arguments.out:
        command = shlex.join(["python", "-m", "benchmarks.transport", *sys.argv[1:]])
        write_results(arguments.out, {"command": command, "machine": machine, "rows": rows})


if __name__ == "__main__":
    main()
