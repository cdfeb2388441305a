"""`torchere bench`: the options, checked and made into values; then one call.

What it needs is imported inside, so that `--help` of the whole command line is quick. `run.py` measures.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from service.bench.levels import Level
    from service.bench.summary import Result
    from service.bench.target import Subject

DEFAULT_URLS = {"grpc": "127.0.0.1:8001"}
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_CONNECTIONS = 512  # of an open loop: below the usual limit of 1024 open files
PROTOCOLS = ("http", "http-json", "grpc")
MAX_PROCESSES = 64
CORES_PER_PROCESS = 4  # a client process keeps one core busy, and the server needs the others
OUT = click.Path(dir_okay=False, path_type=Path)


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on only
    """An option whose text a function takes apart; its ValueError is what the user reads."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _concurrency(text: str) -> tuple[int, ...]:
    from service.bench.levels import parse_concurrency

    return parse_concurrency(text)


def _rates(text: str) -> tuple[float, ...]:
    from service.bench.levels import parse_rates

    return parse_rates(text)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    from service.bench.inputs import parse_shape

    return parse_shape(text)


@click.command("bench")
@click.argument("model")
@click.option("--url", help=f"The server's address. Default: {DEFAULT_URL}, for gRPC {DEFAULT_URLS['grpc']}.")
@click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="http", show_default=True, help="http: tensors as bytes."
)
@click.option(
    "--concurrency", type=Parsed("LIST", _concurrency), help="Requests at once: 8; 1,8,64; 1:64 doubles. Default: 1:64."
)
@click.option(
    "--rate", type=Parsed("LIST", _rates), help="Open loop instead: requests/s at random moments, as 500,1000."
)
@click.option(
    "--connections",
    type=click.IntRange(1, 16_384),
    default=DEFAULT_CONNECTIONS,
    show_default=True,
    help="Most requests at once of an open loop.",
)
@click.option("--version", "model_version", default="", help="The version of the model. Default: the server's choice.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows in each request.")
@click.option(
    "--shape",
    "shapes",
    type=Parsed("NAME:SIZES", _shape),
    multiple=True,
    help="The whole shape of an input, as image:1,3,224,224.",
)
@click.option(
    "--input",
    "input_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Inputs to send: .json or .safetensors. Default: random.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, MAX_PROCESSES),
    help="Client processes. Default: one for every four cores, at most four.",
)
@click.option(
    "--warm-up",
    "warm_up_s",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Seconds of load before measuring.",
)
@click.option(
    "--window", "window_s", type=click.FloatRange(0.2), default=1.0, show_default=True, help="Seconds of one window."
)
@click.option(
    "--max-windows",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Windows at most, where they do not become steady.",
)
@click.option(
    "--steady",
    type=click.FloatRange(0),
    default=0.1,
    show_default=True,
    help="Spread of the last three windows that ends a level.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="Seconds to wait for an answer.",
)
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(0),
    default=0.0,
    help="Seconds that each request grants: gRPC's deadline, HTTP's parameter timeout. Default: it says nothing.",
)
@click.option(
    "--max-seconds", "max_s", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds for everything."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random inputs and arrival times.")
@click.option(
    "--server-pid", type=click.IntRange(1), help="A server on this machine: measure its processor time as well."
)
@click.option("--allow-remote", is_flag=True, help="Allow load on another machine.")
@click.option("--json", "json_file", type=OUT, help="Write the results, machine and versions to this file.")
@click.option("--plot", "plot_file", type=OUT, help="Write a picture of throughput against latency (.svg).")
def bench(**given: Any) -> None:
    """Measure how a server answers MODEL under load: throughput, latencies, errors, and what client and server spend.

    Any server of the Open Inference Protocol v2 will do. Each level is pressed until its last three windows agree.
    With --rate, latencies count from the moment a request was meant to begin, so that a server that stalls cannot
    hide it by holding up the requests behind.
    """
    from service.bench.errors import BenchError
    from service.bench.results import describe_machine
    from service.bench.target import check_allowed

    if given["rate"] and given["concurrency"]:
        raise click.UsageError("--rate and --concurrency are two kinds of load: give one of them")
    if given["server_pid"] and not Path(f"/proc/{given['server_pid']}").exists():
        raise click.UsageError(f"--server-pid: no process {given['server_pid']} on this machine")
    try:
        subject = _subject(given)
        check_allowed(subject.address[0], given["allow_remote"])
        machine = describe_machine()
        results = asyncio.run(_measure(subject, given))
        _tell(subject, results, machine, given)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.Abort from None
    if not any(result.requests for result in results):
        sys.exit(1)


def _subject(given: dict[str, Any]) -> Subject:
    from service.bench.target import Subject

    return Subject(
        url=given["url"] or DEFAULT_URLS.get(given["protocol"], DEFAULT_URL),
        model=given["model"],
        protocol=given["protocol"],
        version=given["model_version"],
        batch=given["batch"],
        shapes=dict(given["shapes"]),
        input_file=given["input_file"],
        seed=given["seed"],
        timeout_s=given["timeout_s"],
        deadline_s=given["deadline_s"],
    )


def levels_of(given: dict[str, Any]) -> list[Level]:
    """The levels that the options ask for, in their order."""
    from service.bench.levels import Level, parse_concurrency

    if given["rate"]:
        return [Level(given["connections"], rate) for rate in given["rate"]]
    return [Level(concurrency) for concurrency in given["concurrency"] or parse_concurrency("1:64")]


async def _measure(subject: Subject, given: dict[str, Any]) -> list[Result]:
    from service.bench.run import Terms, measure
    from service.bench.show import Progress
    from service.bench.statistics_reader import StatisticsReader
    from service.bench.target import build_request, try_once

    request = await asyncio.to_thread(build_request, subject)
    await try_once(request.target)
    names = ("warm_up_s", "window_s", "max_windows", "seed", "server_pid", "max_s")
    terms = Terms(
        processes=given["processes"] or default_processes(os.cpu_count() or 1),
        steady_spread=given["steady"],
        **{name: given[name] for name in names},
    )
    with StatisticsReader(subject) as reader, Progress() as progress:
        return await measure(request, levels_of(given), terms, progress, reader.read)


def default_processes(cores: int) -> int:
    """One client process for every four cores, at least one, at most four."""
    return min(4, max(1, cores // CORES_PER_PROCESS))


def _tell(subject: Subject, results: list[Result], machine: dict[str, Any], given: dict[str, Any]) -> None:
    from service.bench.plot import draw, series_of
    from service.bench.results import write_results
    from service.bench.show import print_results

    title = f"{subject.model} over {subject.protocol} at {subject.url}"
    if not results:
        return
    print_results(title, results)
    if given["json_file"]:
        content = {
            "command": shlex.join(["torchere", *sys.argv[1:]]),
            "machine": machine,
            "url": subject.url,
            "model": subject.model,
            "protocol": subject.protocol,
            "batch": subject.batch,
            "results": results,
        }
        write_results(given["json_file"], content)
    if given["plot_file"]:
        given["plot_file"].write_text(draw(title, series_of(results)))
