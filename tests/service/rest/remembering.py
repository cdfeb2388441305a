"""One connection of HTTP over engines that answer as the test says. Not a test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import numpy as np
import uvicorn
from uvicorn.server import ServerState

from service.engine.messages import Infer, Result
from service.engine.responses import Waiter
from service.engine.transport import FrameReader, FrameTemplate
from service.errors import NotLoaded, ServiceError
from service.limits import Limits
from service.plane import Plane
from service.rest.infer import InferLane
from service.rest.protocol import lane_protocol
from tests.fakes import FakeCounter, catalog
from tests.service.rest.test_protocol import Transport

Answer = tuple[Result, list[memoryview]]


class Engines:
    """Doubles what it gets, when it is told to: by a coroutine the first time, by its waiter from then on."""

    def __init__(self) -> None:
        self.waiting: dict[int, tuple[Infer, Waiter, bytes]] = {}
        self.withdrawn: list[int] = []
        self.asked = self.begun = self.resent = 0
        self.absent = False
        self.resent_until: float | None = None
        self._reader: FrameReader[Infer] = FrameReader(Infer)

    async def infer(self, message: Infer, blobs: Sequence[Any]) -> Answer:
        self.asked += 1
        return self._answer(message, b"".join(blobs))

    def stream(self, message: Infer, blobs: Sequence[Any]) -> AsyncGenerator[Answer]:
        raise NotImplementedError

    def begin(
        self, number: int, frame: FrameTemplate, blobs: Sequence[Any], waiter: Waiter, deadline: float | None
    ) -> Callable[[int], None]:
        if self.absent:
            raise NotLoaded("no engine is running")
        self.begun += 1
        raw = b"".join([frame.begin(number, deadline), *blobs])
        self._reader.buffer()[: len(raw)] = raw
        ((message, body),) = self._reader.received(len(raw))
        assert message.id == number
        self.waiting[number] = message, waiter, bytes(body)
        return self._withdraw

    async def resend(self, message: Infer, blobs: Sequence[Any], error: NotLoaded) -> Answer:
        self.resent += 1
        self.resent_until = message.deadline
        return self._answer(message, b"".join(blobs))

    def answer(self, error: ServiceError | None = None) -> None:
        for message, waiter, body in self.waiting.values():
            if error is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(self._answer(message, body))
        self.waiting.clear()

    def _withdraw(self, number: int) -> None:
        self.withdrawn.append(number)
        self.waiting.pop(number, None)

    def _answer(self, message: Infer, body: bytes) -> Answer:
        doubled = memoryview((2 * np.frombuffer(body, np.float32)).tobytes())
        return Result(message.id, message.shapes, (len(doubled),), (1, 2, 3, 4, 5), 1, 1), [doubled]


class Scene:
    """One connection to a frontend whose engines wait for a word."""

    def __init__(self) -> None:
        self.engines, self.counter = Engines(), FakeCounter()
        self.plane = Plane(self.engines, self.counter)
        self.plane.follow(catalog())
        self.lane = InferLane(self.plane, Limits())
        self.transport = Transport()
        self.protocol: Any = None

    def open(self) -> None:
        http = lane_protocol(self.lane)
        config = uvicorn.Config(_no_app, http=http, loop="none", lifespan="off", log_config=None)
        config.load()
        self.protocol = http(config, ServerState(), {})
        self.protocol.connection_made(self.transport)

    async def ask(self, data: bytes, error: ServiceError | None = None) -> bytes:
        """What is answered to `data`."""
        before = len(self.transport.written)
        self.protocol.data_received(data)
        await self.settle()
        self.engines.answer(error)
        await self.settle()
        return self.transport.written[before:]

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def _no_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nothing here goes the way of ASGI")


def request(*values: float, headers: bytes = b"", model: bytes = b"double", **more: Any) -> bytes:
    data = np.array([values], np.float32).tobytes()
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [1, len(values)],
        "parameters": {"binary_data_size": len(data)},
    }
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}, **more}).encode()
    head = b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: x\r\n%sInference-Header-Content-Length: %d\r\n"
    return head % (model, headers, len(text)) + b"Content-Length: %d\r\n\r\n%s" % (len(text) + len(data), text + data)


def values(answer: bytes) -> list[float]:
    return [float(each) for each in np.frombuffer(answer[-12:], np.float32)]


def play(act: Callable[[Scene], Any]) -> Scene:
    async def run() -> Scene:
        scene = Scene()
        scene.open()
        await act(scene)
        scene.protocol.connection_lost(None)
        await scene.settle()
        assert scene.plane.in_flight == 0
        return scene

    return asyncio.run(run())
