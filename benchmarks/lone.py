"""Where the time of one client goes that is alone: over HTTP and straight to the engine, with busy polling and without.

    python -m benchmarks.lone --model nothing=/path/to/repository [--device cuda:0] [--busy-poll 0 2000]

The client sends one request after the other. It "sleeps" until its answer comes, as clients do, or "looks" for it, so
that waking it is no part of what is told. "engine" are frames on the engine's own socket, from which a frontend is
missing; its phases are what the engine says of itself. All settings take turns, in ROUNDS rounds, each with one
service; what is told are the medians of all.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from service.bench.results import describe_machine, write_results
from service.engine.messages import Failure, Infer, Result
from service.engine.transport import FrameReader, frame
from tests.e2e.running import RunningServer

ITEM_BYTES = {"UINT8": 1, "INT64": 8, "FP32": 4, "FP16": 2}
WARM_S, SECONDS, ROUNDS = 0.5, 1.5, 3
FIRST = 1  # contract of the only version
Call = Callable[[], Any]


class Line:
    """A connection. `looks`: what comes is looked for, without sleeping."""

    def __init__(self, sock: socket.socket, looks: bool) -> None:
        sock.setblocking(not looks)
        self._sock = sock

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self._sock.send(left) :]
            except BlockingIOError:
                continue

    def receive(self, place: memoryview) -> int:
        while True:
            try:
                return self._sock.recv_into(place)
            except BlockingIOError:
                continue


def http_call(server: RunningServer, model: str, described: dict[str, Any], looks: bool) -> Call:
    """One request of one row, whose tensors are binary, as is the answer."""
    inputs, tensors = [], b""
    for each in described["inputs"]:
        shape = [1, *(max(size, 1) for size in each["shape"][1:])]
        data = bytes(size_of(each["datatype"], shape))
        inputs.append(dict(each, shape=shape, parameters={"binary_data_size": len(data)}))
        tensors += data
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: here\r\ncontent-length: {len(text) + len(tensors)}\r\n"
    head += f"inference-header-content-length: {len(text)}\r\n\r\n"
    request = head.encode() + text + tensors
    sock = socket.create_connection(("127.0.0.1", server.http_port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line, place = Line(sock, looks), memoryview(bytearray(1 << 20))

    def call() -> None:
        line.send(request)
        filled = line.receive(place)
        opening, _, body = bytes(place[:filled]).partition(b"\r\n\r\n")
        assert opening.startswith(b"HTTP/1.1 200"), opening + body
        length = int(opening.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
        left = length - len(body)
        while left:
            left -= line.receive(place)

    return call


def engine_call(server: RunningServer, model: str, described: dict[str, Any], looks: bool) -> Call:
    """The same row in a frame; gives the engine's phases."""
    (path,) = server.log_file.parent.glob("torchere-*/engine-0-*.sock")
    sock = socket.socket(socket.AF_UNIX)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
    sock.connect(str(path))
    shapes = tuple((1, *(max(size, 1) for size in each["shape"][1:])) for each in described["inputs"])
    pairs = zip(described["inputs"], shapes, strict=True)
    blobs = [bytes(size_of(each["datatype"], list(shape))) for each, shape in pairs]
    message = Infer(1, model, "1", 1, shapes, tuple(map(len, blobs)), contract=FIRST)
    request = b"".join(bytes(part) for part in frame(message, blobs))
    line, reader = Line(sock, looks), FrameReader(Result | Failure)  # type: ignore[arg-type]

    def call() -> Any:
        line.send(request)
        while True:
            for answer, _ in list(reader.received(line.receive(reader.buffer()))):
                assert isinstance(answer, Result), answer
                return answer.phases

    return call


def size_of(datatype: str, shape: list[int]) -> int:
    size = ITEM_BYTES[datatype]
    for each in shape:
        size *= each
    return size


def measure(call: Call) -> tuple[list[float], list[Any]]:
    """Microseconds of each call, and what each gave."""
    until = time.monotonic() + WARM_S
    while time.monotonic() < until:
        call()
    took, gave, until = [], [], time.monotonic() + SECONDS
    while (began := time.monotonic()) < until:
        gave.append(call())
        took.append(1e6 * (time.monotonic() - began))
    return took, gave


def told(took: list[float], gave: list[Any]) -> dict[str, Any]:
    cuts = statistics.quantiles(took, n=100)
    found: dict[str, Any] = {"p50_us": round(cuts[49]), "p90_us": round(cuts[89]), "p99_us": round(cuts[98])}
    if gave[0] is not None:
        names = ("queue", "stack", "copy_in", "compute", "copy_out")
        columns = zip(*gave, strict=True)
        found["phases_us"] = {
            name: round(statistics.median(column) / 1e3, 1) for name, column in zip(names, columns, strict=True)
        }
    return found


def serve(name: str, repository: Path, cache: Path, *flags: str) -> Iterator[tuple[str, tuple[list[float], list[Any]]]]:
    """Each way to ask one service, and what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # the engine's socket is there
        with RunningServer(repository, cache, Path(folder), *flags) as server:
            _, described = server.get(f"/v2/models/{name}")
            for kind, make in (("http", http_call), ("engine", engine_call)):
                for looks in (False, True):
                    way = f"{kind}, client {'looks' if looks else 'sleeps'}"
                    yield way, measure(make(server, name, described, looks))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", action="append", required=True, help="NAME=REPOSITORY, more than once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/torchere-lone-cache"))
    parser.add_argument("--busy-poll", nargs="+", default=["0", "2000"])
    parser.add_argument("--frontends", default="1")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    took: dict[str, tuple[list[float], list[Any]]] = {}
    for _ in range(given.rounds):
        for name, _, repository in (each.partition("=") for each in given.model):
            for limit in given.busy_poll:
                flags = (
                    "--device",
                    given.device,
                    "--startup",
                    "wait",
                    "--frontends",
                    given.frontends,
                    "--models",
                    name,
                )
                for way, measured in serve(name, Path(repository), given.cache, *flags, "--busy-poll-us", limit):
                    key = f"{name}, busy poll {limit}, {way}"
                    have = took.setdefault(key, ([], []))
                    for all_of_it, more in zip(have, measured, strict=True):
                        all_of_it.extend(more)
                    print(key, told(*measured), file=sys.stderr, flush=True)
    found = {key: told(*each) for key, each in took.items()}
    for key, each in found.items():
        print(f"{key:<60} {each}")
    if given.out is not None:
        write_results(given.out, {"machine": describe_machine(), "lone": found})


if __name__ == "__main__":
    main()
