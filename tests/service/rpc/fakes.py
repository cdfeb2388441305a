"""A plane that answers as it is told, and servers to put in front of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np

from compiler.spec import TensorSpec
from protos.inference_pb2_grpc import GRPCInferenceServiceStub
from service.control import Control
from service.errors import ServiceError
from service.plane import Plane
from service.repository.catalog import Catalog
from service.rpc.server import RpcOptions, RpcServer, start_rpc
from service.shared_memory import Regions
from service.tensors import InferRequest, InferResponse, Tensor
from tests.fakes import FakeCounter, FakeEngines, ParentInProcess, catalog, entry

Answer = Callable[[InferRequest], InferResponse | Exception]


class NoTemplates:
    """No request is plain: all go the usual way."""

    def make(self, request: InferRequest) -> None:
        return None


class FakePlane:
    """Answers each request with `answer(request)`, after `gate` opens where one is set; remembers what it was asked."""

    def __init__(self, answer: Answer | None = None, known: Catalog | None = None) -> None:
        self.asked: list[InferRequest] = []
        self.cancelled: list[InferRequest] = []
        self.refusals: list[tuple[str, ServiceError]] = []
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.catalog = known or catalog()
        self.regions = Regions()
        self.is_ready = True
        self.is_draining = False
        self.templates: Any = NoTemplates()
        self._answer = answer or echo

    def encoded(self, response: InferResponse, seconds: float) -> None:
        assert seconds >= 0

    def refused(self, request: InferRequest, error: ServiceError) -> None:
        self.refusals.append((request.model, error))

    async def stream(self, request: InferRequest) -> AsyncIterator[InferResponse]:
        yield await self.infer(request)

    async def infer(self, request: InferRequest) -> InferResponse:
        self.asked.append(request)
        self.arrived.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(request)
            self.left.set()
            raise
        answer = self._answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer


def echo(request: InferRequest) -> InferResponse:
    """The inputs, as outputs."""
    return InferResponse(request.model, request.version or "1", request.id, request.inputs)


def answer_with(error: Exception) -> Answer:
    return lambda request: error


def control_of(plane: Any, parent: ParentInProcess | None = None, **options: Any) -> Control:
    """The door of control as a frontend has it, over a parent in this process; without shared memory unless given."""
    return Control(plane, (parent or ParentInProcess(has_shared_memory=False)).serve(plane), **options)


@contextlib.asynccontextmanager
async def serving(
    plane: Any, control: Control | None = None, **options: Any
) -> AsyncIterator[tuple[RpcServer, GRPCInferenceServiceStub, Any]]:
    """(server, stub, channel) on a free port of the loopback."""
    server = await start_rpc(plane, control or control_of(plane), "127.0.0.1", 0, RpcOptions(**options))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield server, GRPCInferenceServiceStub(channel), channel  # type: ignore[no-untyped-call]
    await server.stop(0)


class ThreadedServer:
    """A server in a thread with its own loop, for clients that block: `with ThreadedServer(make_plane) as server`."""

    def __init__(self, make_plane: Callable[[], Any]) -> None:
        self.port = 0
        self._make_plane = make_plane
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(30), "the server came up"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(30)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        plane = self._make_plane()
        server = await start_rpc(plane, control_of(plane), "127.0.0.1", 0)
        self.port = server.port
        self._up.set()
        await self._done.wait()
        await server.stop(0)


def real_plane() -> Plane:
    """The real door over engines that compute with numpy: double, negate (INT64), halve (FP16), scores (labels)."""
    extra = (
        entry(name="negate", inputs=(spec("x", "INT64"),), outputs=(spec("y", "INT64"),)),
        entry(name="halve", inputs=(spec("x", "FP16"),), outputs=(spec("y", "FP16"),)),
        entry(name="scores", outputs=(spec("y", "FP32"),), labels={"y": ("cat", "dog", "fish")}),
    )
    engines = FakeEngines(
        negate=lambda arrays: [-arrays[0]],
        halve=lambda arrays: [arrays[0] / np.float16(2)],
        scores=lambda arrays: [arrays[0]],
    )
    for found in extra:
        engines.know(found)
    plane = Plane(engines, FakeCounter())
    plane.catalog = catalog(*extra)
    return plane


def spec(name: str, datatype: str) -> TensorSpec:
    return TensorSpec(name, datatype, (-1, 3))


def tensor(name: str, values: np.ndarray[Any, Any], datatype: str) -> Tensor:
    return Tensor(name, datatype, values.shape, values.tobytes())
