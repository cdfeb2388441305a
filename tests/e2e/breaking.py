"""Clients for the tests that break the service while they ask: over HTTP on raw connections and over gRPC, every answer
checked. Runs in the test's own process; what they saw is in `Seen`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from protos import inference_pb2 as messages
from protos.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.running import RunningServer

LIMIT_S = 120.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Seen:
    """What came of requests: how many were answered right, and what else came."""

    right: int = 0
    others: list[str] = field(default_factory=list)
    broken: int = 0  # connections
    seconds: list[float] = field(default_factory=list)

    def note(self, wrong: str) -> None:
        """One answer, and what was wrong with it: "" where nothing was."""
        if wrong:
            self.others.append(wrong)
        else:
            self.right += 1


def http_request(model: str, rows: list[list[float]], **parameters: int) -> bytes:
    x = {"name": "x", "datatype": "FP32", "shape": [len(rows), len(rows[0])], "data": rows}
    body = json.dumps({"inputs": [x], "parameters": parameters}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def http_answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(size))


def result(body: Any) -> list[float]:
    """The numbers of the one output of an answer."""
    data: list[float] = body["outputs"][0]["data"]
    return data


class Clients:
    """Each asks `poison`, which gives x + 1, one request after the other until `stop`; no two requests are alike."""

    model = "poison"

    def __init__(self, http_port: int, grpc_port: int) -> None:
        self.stop = asyncio.Event()
        self._http_port = http_port
        self._grpc = f"127.0.0.1:{grpc_port}"
        self._numbers = itertools.count(1000)

    async def over_http(self, seen: Seen) -> None:
        """A connection that breaks is counted, and opened anew."""
        while not self.stop.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", self._http_port)
            try:
                while not self.stop.is_set():
                    number = next(self._numbers)
                    started = time.monotonic()
                    writer.write(self._request(number))
                    wrong = await self._hear(reader, number)
                    seen.seconds.append(time.monotonic() - started)
                    seen.note(wrong)
            except (OSError, asyncio.IncompleteReadError):
                seen.broken += 1
                await asyncio.sleep(0.05)
            finally:
                writer.close()

    async def over_grpc(self, seen: Seen) -> None:
        async with grpc.aio.insecure_channel(self._grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            while not self.stop.is_set():
                number = next(self._numbers)
                try:
                    answer = await stub.ModelInfer(grpc_request(self._rows(number), self.model))
                except grpc.aio.AioRpcError as error:
                    seen.note(f"{error.code()} {error.details()}")
                else:
                    data = answer.raw_output_contents[0]
                    seen.note("" if self._is_right(data, number) else f"OK, but wrong in {len(data)} bytes")

    def _rows(self, number: int) -> Any:
        return [[1, number]]

    def _request(self, number: int) -> bytes:
        return http_request(self.model, self._rows(number))

    async def _hear(self, reader: asyncio.StreamReader, number: int) -> str:
        """What is wrong with the answer; "" where it is right."""
        status, body = await http_answer(reader)
        return "" if status == 200 and result(body) == [2.0, number + 1.0] else f"{status} {body}"

    def _is_right(self, data: bytes, number: int) -> bool:
        return np.frombuffer(data, np.float32).tolist() == [2.0, number + 1.0]

    async def while_asking(self, count: int, seen: Seen, ask: Any, break_it: Callable[[], Awaitable[None]]) -> None:
        """`count` clients ask until `break_it()` has returned."""
        asking = [asyncio.create_task(ask(seen)) for _ in range(count)]
        try:
            async with asyncio.timeout(LIMIT_S):
                await break_it()
                self.stop.set()
                await asyncio.gather(*asking)
        finally:
            for task in asking:
                task.cancel()


class LargeClients(Clients):
    """The same for `wide`, whose tensors are large: each is full of its request's number."""

    model = "wide"
    WIDTH = 40_000

    def _rows(self, number: int) -> Any:
        return np.full((1, self.WIDTH), number, np.float32)

    def _request(self, number: int) -> bytes:
        return binary_request(self.model, self._rows(number))

    async def _hear(self, reader: asyncio.StreamReader, number: int) -> str:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.partition("\r\ncontent-length: ")[2].partition("\r\n")[0]))
        is_right = head.split()[1] == "200" and self._is_right(body[-4 * self.WIDTH :], number)
        return "" if is_right else f"{head.partition(chr(13))[0]}, {len(body)} bytes"

    def _is_right(self, data: bytes, number: int) -> bool:
        return len(data) == 4 * self.WIDTH and bool((np.frombuffer(data, np.float32) == number + 1).all())


def binary_request(model: str, rows: Any) -> bytes:
    data: bytes = rows.tobytes()
    x = {"name": "x", "datatype": "FP32", "shape": rows.shape, "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [x], "parameters": {"binary_data_output": True}}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text) + len(data)}\r\n"
    return head.encode() + b"Inference-Header-Content-Length: %d\r\n\r\n" % len(text) + text + data


def grpc_request(rows: Any, model: str = "poison") -> Any:
    request = messages.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=np.shape(rows))
    request.raw_input_contents.append(np.asarray(rows, np.float32).tobytes())
    return request


async def ask_at_once(port: int, bodies: list[bytes]) -> list[tuple[int, Any, float]]:
    """Status, body and seconds of requests that are sent together, each on its own connection."""

    async def ask(body: bytes) -> tuple[int, Any, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        started = time.monotonic()
        writer.write(body)
        status, answer = await http_answer(reader)
        writer.close()
        return status, answer, time.monotonic() - started

    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*map(ask, bodies))


async def at_a_rate(port: int, body: bytes, rate: float, seconds: float) -> list[tuple[int, float, float]]:
    """Open loop: a request every 1/rate, whatever comes of those before. Status, seconds, when it was answered."""
    began = time.monotonic()

    async def ask() -> tuple[int, float, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        started = time.monotonic()
        writer.write(body)
        status, _ = await http_answer(reader)
        writer.close()
        now = time.monotonic()
        return status, now - started, now - began

    asking = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        asking.append(asyncio.create_task(ask()))
    async with asyncio.timeout(LIMIT_S):
        return await asyncio.gather(*asking)


def statuses(answers: list[tuple[int, Any, float]]) -> Counter[int]:
    return Counter(status for status, _, _ in answers)


async def until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as it holds; the loop goes on meanwhile."""
    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def is_scraped(running: RunningServer) -> bool:
    try:
        return bool(running.metrics())
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_compiling(running: RunningServer) -> bool:
    return any(entry["optimization"] == "compiling" for entry in running.get("/v1/models")[1]["entries"])


def resident_bytes(pids: Iterable[int]) -> int:
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES for pid in pids)
