"""An engine, a frontend before it, and clients of one connection each, for bodies that come in pieces. Not a test."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler.spec import TensorSpec
from service.engine.arena import Guest
from service.engine.listener import DataConnection
from service.engine.messages import Cancel, Failure, Infer, Result, Took
from service.engine.transport import split
from service.errors import Code
from service.plane import Plane
from service.rest.infer import InferLane
from tests.fakes import entry

WIDTH = 30_000  # float32, 120 KB
PAUSE_TURNS = 50
TIMEOUT_S = 20.0
WIDE = entry(name="wide", inputs=(TensorSpec("x", "FP32", (-1, -1)),), outputs=(TensorSpec("y", "FP32", (-1, -1)),))


class Engine:
    """Doubles what it gets, at once or when it is let go on."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.error: Code | None = None
        self.cancelled = 0

    def beat(self) -> None:
        """It is alive."""

    def handle(
        self, message: Infer | Cancel | Took, body: memoryview, connection: DataConnection, is_alone: bool
    ) -> None:
        if not isinstance(message, Infer):
            self.cancelled += 1
            return
        assert self.go.wait(TIMEOUT_S)
        if self.error is not None:
            connection.send([(Failure(message.id, self.error, "it may not be"), ())])
            return
        (tensor,) = split(body, message.sizes)
        doubled = memoryview((2 * np.frombuffer(tensor, np.float32)).tobytes())
        answer = Result(message.id, message.shapes, (len(doubled),), (0, 0, 0, 0, 0), 1, 1), [doubled]
        connection.send([answer])

    def shares(self, guest: Guest) -> None:
        """Nothing copies by itself from there."""

    def count(self) -> None:
        """Nothing is put off."""

    def forget(self, connection: DataConnection) -> None:
        """Nothing waits here."""


class Scene:
    """A frontend that listens, with its engine."""

    def __init__(self, plane: Plane, lane: InferLane, engine: Engine, url: tuple[str, int], tls: Any) -> None:
        self.plane, self.lane, self.engine = plane, lane, engine
        self._url, self._tls = url, tls
        assert lane.arena is not None
        self.arena = lane.arena

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection(*self._url, ssl=self._tls))

    async def freed(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self.arena.taken_bytes:
                await asyncio.to_thread(lambda: None)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        """One after the other, each once the one before was surely read."""
        for index, piece in enumerate(pieces):
            for _ in range(PAUSE_TURNS if index else 0):
                await asyncio.to_thread(lambda: None)
            self._writer.write(piece)
            await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body."""
        async with asyncio.timeout(TIMEOUT_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
            return int(head.split(b" ", 2)[1]), await self._reader.readexactly(int(sizes[0].split()[1]))

    async def doubled(self) -> float:
        """What the values of an answer are, all of them."""
        status, body = await self.answer()
        assert status == 200, body
        values = np.frombuffer(body[body.rindex(b"}") + 1 :], np.float32)
        assert (values == values[0]).all()
        return float(values[0])

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except (ssl.SSLError, ConnectionError):
            """It left in the middle of something."""


def request(value: float, width: int = WIDTH, *, is_chunked: bool = False, says: int | None = None) -> bytes:
    """A row of `width` times `value`, which is a byte: no byte of it is that of a brace."""
    data = np.full(width, value, np.float32).tobytes()
    size = {"binary_data_size": len(data) if says is None else says}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, width], "parameters": size}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = b"POST /v2/models/wide/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\n" % len(text)
    body = text + data
    if not is_chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:], b""))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks


def cut(data: bytes, *places: int) -> Iterator[bytes]:
    at = 0
    for place in (*places, len(data)):
        yield data[at:place]
        at = place
