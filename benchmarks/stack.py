"""What the stack around a model costs: torchere beside a plain FastAPI+torch server, on one machine, in one run.

    python -m benchmarks.stack [--out benchmarks/results]

An MLP 64-64-10, which costs nothing, and a small CNN on (3,64,64) float32, each over HTTP with binary tensors, HTTP
with JSON and gRPC at concurrency 1, 8 and 64, one row a request. `torchere bench`'s own engine is the client.
Both servers run all the time, and for each concurrency they are pressed one right after the other, in several rounds;
of each the round of median rate is told. Ratios are to the plain server at the same concurrency. The MLP's requests
also go to servers that do nothing with them (benchmarks/floors): what is left of torchere's time is its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.servers import Server, asgi_floor, plain_server, rpc_floor, torchere_server
from service.bench.inputs import Spec, random_tensors
from service.bench.levels import Level, parse_concurrency
from service.bench.messages import Protocol, Target
from service.bench.payloads import http_request
from service.bench.plot import Point, Series, draw
from service.bench.results import describe_machine, write_results
from service.bench.run import Terms, measure
from service.bench.show import Progress, notes
from service.bench.statistics_reader import StatisticsReader
from service.bench.summary import Result
from service.bench.target import Request, Subject, build_request, try_once
from service.tensors import to_numpy

SPECS = {"mlp": Spec("x", "FP32", (-1, 64)), "cnn": Spec("image", "FP32", (-1, 3, 64, 64))}
TITLES = {"mlp": "MLP 64-64-10", "cnn": "CNN on (3,64,64) float32"}
PLAIN = "plain FastAPI, JSON"
FLOORS = {"http": "nothing under uvicorn", "grpc": "nothing under grpc.aio"}
KINDS = {"http": "torchere, HTTP binary", "http-json": "torchere, HTTP JSON", "grpc": "torchere, gRPC"}
TIMEOUT_S = 30.0  # 64 images as JSON keep the plain server busy for seconds
PLAIN_WIDTH = 180

Row = tuple[str, str, Result]  # model, kind, what came of it


@dataclasses.dataclass(frozen=True, slots=True)
class Contender:
    """One way to reach one model; `subject` where the server has statistics of it."""

    model: str
    kind: str
    request: Request
    server_pid: int
    subject: Subject | None = None


def plain_request(server: Server, model: str) -> Request:
    """The row that torchere gets too, as the JSON that the plain server takes."""
    spec = SPECS[model]
    (tensor,) = random_tensors([spec], 1, {}, seed=0)
    host, _, port = server.http.removeprefix("http://").partition(":")
    body = json.dumps({spec.name: to_numpy(tensor).tolist()}).encode()
    payload = http_request(f"{host}:{port}", f"/{model}/infer", body)
    return Request(Target("http", host, int(port), payload, TIMEOUT_S), 1)


def floors(asgi: Server, rpc: Server, torchere: Server) -> Iterator[Contender]:
    """The same bytes that torchere gets, sent to servers that do nothing with them."""
    for protocol, server in (("http", asgi), ("grpc", rpc)):
        url = torchere.grpc if protocol == "grpc" else torchere.http
        subject = Subject(url, "mlp", cast(Protocol, protocol), timeout_s=TIMEOUT_S)
        request = build_request(subject)
        port = int((server.grpc or server.http).rpartition(":")[2])
        moved = msgspec.structs.replace(request.target, port=port)
        yield Contender("mlp", FLOORS[protocol], dataclasses.replace(request, target=moved), server.pid)


def contenders(plain: Server, torchere: Server) -> Iterator[Contender]:
    """The plain server first, then every protocol of torchere; for each model."""
    for model in SPECS:
        yield Contender(model, PLAIN, plain_request(plain, model), plain.pid)
        for protocol in get_args(Protocol):
            url = torchere.grpc if protocol == "grpc" else torchere.http
            subject = Subject(url, model, protocol, timeout_s=TIMEOUT_S)
            yield Contender(model, KINDS[protocol], build_request(subject), torchere.pid, subject)


async def press(contender: Contender, level: Level, terms: Terms) -> Result:
    """One level on one contender."""
    own = dataclasses.replace(terms, server_pid=contender.server_pid)
    await try_once(contender.request.target)
    with Progress(f"{contender.model}, {contender.kind}") as progress, contextlib.ExitStack() as stack:
        read = no_statistics
        if contender.subject:
            read = stack.enter_context(StatisticsReader(contender.subject)).read
        results = await measure(contender.request, [level], own, progress, read)
    if not results:
        raise SystemExit(f"{contender.model}, {contender.kind}: nothing was measured")
    return results[0]


def no_statistics() -> dict[str, Any] | None:
    return None


def run(levels: Sequence[Level], terms: Terms, rounds: int) -> list[Row]:
    """A row for each contender and level, the levels of a contender one after the other."""
    found: dict[tuple[str, str, Level], list[Result]] = {}
    with plain_server() as plain, torchere_server() as torchere, asgi_floor() as asgi, rpc_floor() as rpc:
        every = [*contenders(plain, torchere), *floors(asgi, rpc, torchere)]
        order = [(each, level) for model in SPECS for each in every if each.model == model for level in levels]
        turns = sorted(order, key=lambda turn: (list(SPECS).index(turn[0].model), turn[1].concurrency))  # stable
        for _ in range(rounds):
            for contender, level in turns:
                result = asyncio.run(press(contender, level, terms))
                found.setdefault((contender.model, contender.kind, level), []).append(result)
    return [(each.model, each.kind, middle(found[each.model, each.kind, level])) for each, level in order]


def middle(results: Sequence[Result]) -> Result:
    """The one of median rate."""
    return sorted(results, key=lambda result: result.requests_per_s)[len(results) // 2]


@dataclasses.dataclass(frozen=True, slots=True)
class Ratio:
    """A row beside the plain server's of the same model and concurrency: how many times its requests per second, and
    how many times fewer microseconds of server processor time each took."""

    rate: float
    cpu: float


def ratios(rows: Sequence[Row]) -> list[Ratio]:
    """One for each row."""
    plain = {(model, result.level): result for model, kind, result in rows if kind == PLAIN}
    found = []
    for model, _, result in rows:
        other = plain[model, result.level]
        rate = result.requests_per_s / other.requests_per_s
        cpu = (other.server_cpu_us or 0.0) / (result.server_cpu_us or math.inf)
        found.append(Ratio(round(rate, 2), round(cpu, 2)))
    return found


def show(model: str, rows: Sequence[tuple[Row, Ratio]]) -> None:
    columns = ["server", "concurrency", "requests/s", "to plain", "p50 ms", "p99 ms", "server µs", "to plain"]
    columns += ["client µs", "errors", "steady"]
    table = Table(title=f"{TITLES[model]}, one row a request", title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == "server" else "right")
    for (_, kind, result), ratio in rows:
        latency = [f"{result.latency_ms[name]:.3g}" if name in result.latency_ms else "" for name in ("p50", "p99")]
        server, client = (f"{value or 0:,.0f}" for value in (result.server_cpu_us, result.client_cpu_us))
        rate = [f"{result.requests_per_s:,.0f}", f"{ratio.rate:.2f}x"]
        ends = [str(result.error_count), "yes" if result.is_steady else "no"]
        table.add_row(kind, str(result.level.concurrency), *rate, *latency, server, f"{ratio.cpu:.2f}x", client, *ends)
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    console.print(table)


def write(folder: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """stack.json with everything, and a picture for each model."""
    folder.mkdir(parents=True, exist_ok=True)
    told = [
        {"model": model, "server": kind, "to_plain": msgspec.to_builtins(ratio), **msgspec.to_builtins(result)}
        for (model, kind, result), ratio in zip(rows, ratios(rows), strict=True)
    ]
    command = shlex.join(["python", "-m", "benchmarks.stack", *sys.argv[1:]])
    write_results(folder / "stack.json", {"command": command, "machine": machine, "rows": told})
    for model in SPECS:
        series = []
        for kind in (PLAIN, *KINDS.values()):
            own = [result for name, each, result in rows if (name, each) == (model, kind)]
            points = [
                Point(r.requests_per_s, r.latency_ms["p50"], f"×{r.level.concurrency}") for r in own if r.requests
            ]
            series.append(Series(kind, tuple(points)))
        (folder / f"{model}.svg").write_text(draw(f"{TITLES[model]}: median latency", series))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", default="1,8,64")
    parser.add_argument("--window", type=float, default=1.0, help="seconds")
    parser.add_argument("--max-windows", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for stack.json and the pictures")
    arguments = parser.parse_args()
    levels = [Level(concurrency) for concurrency in parse_concurrency(arguments.concurrency)]
    terms = Terms(warm_up_s=0.5, window_s=arguments.window, max_windows=arguments.max_windows)
    machine = describe_machine()
    rows = run(levels, terms, arguments.rounds)
    told = list(zip(rows, ratios(rows), strict=True))
    for model in SPECS:
        show(model, [row for row in told if row[0][0] == model])
    for model, kind, result in rows:
        if result.errors or result.is_client_bound:
            print(*(f"- {model}, {kind}: {note}" for note in notes([result])), sep="\n")
    if arguments.out:
        write(arguments.out, machine, rows)


if __name__ == "__main__":
    main()
