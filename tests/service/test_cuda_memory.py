"""CUDA shared memory without a GPU: what may be registered, what engines are told to do, what a request says of it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from service.cuda_memory import NO_GPU, OFF, CudaMemory, read_handle
from service.engine.messages import (
    Answer,
    Ask,
    Change,
    CloseRegions,
    Infer,
    OpenRegion,
    RegionOpened,
    RegisterCudaRegion,
    RegisterRegion,
    Result,
    Shared,
    UnregisterRegions,
)
from service.errors import Code, InvalidInput, ServiceError, Unavailable, Unsupported
from service.gpu_places import take_places
from service.plane import Plane
from service.registrar import Registrar
from service.shared_memory import CudaRegion, Region
from service.tensors import InferRequest, OnGpu, Place, Placement, Places, RequestedOutput, Tensor
from tests.fakes import FakeCounter, FakeModels, FakeStreams, catalog

HANDLE = b"a-secret" * 8
REGIONS = (CudaRegion("a", 0, 64, id=3), CudaRegion("b", 1, 64, id=4))


class Parent:
    """A parent with engines on two GPUs, which answer `reason` to what they shall open; None: they are away."""

    def __init__(self, *devices: str, is_on: bool = True, reason: str | None = "") -> None:
        self.sent: list[tuple[int, OpenRegion | CloseRegions]] = []
        self.replies: asyncio.Queue[Answer] = asyncio.Queue()
        self.reason = reason
        self.memory = CudaMemory(devices or ("cuda:0", "cuda:1"), self._send, is_on=is_on, timeout_s=0.0)
        self.registrar = Registrar(
            Shared(),
            models=FakeModels,
            has_shared_memory=False,
            publish=lambda: None,
            reply=lambda _, answer: self.replies.put_nowait(answer),
        )
        self.registrar.memory = self.memory

    def _send(self, slot: int, message: OpenRegion | CloseRegions) -> None:
        self.sent.append((slot, message))
        if isinstance(message, OpenRegion) and self.reason is not None:
            self.memory.opened(RegionOpened(message.region.id, self.reason))

    async def ask(self, change: Change) -> Answer:
        self.registrar.ask(0, Ask(1, change))
        return await self.replies.get()

    async def register(self, name: str = "r", device_id: int = 1, size: int = 64, handle: bytes = HANDLE) -> Answer:
        return await self.ask(RegisterCudaRegion(CudaRegion(name, device_id, size), handle))


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    asyncio.run(run())


def test_a_region_is_opened_by_the_engine_of_its_gpu_and_again_by_a_later_one() -> None:
    async def scenario() -> None:
        parent = Parent()
        assert parent.memory.is_usable
        assert (await parent.register()).code == ""
        opened = CudaRegion("r", 1, 64, id=1)
        assert parent.registrar.shared.cuda_regions == (opened,)
        assert parent.sent == [(1, OpenRegion(opened, HANDLE))]
        assert (parent.memory.orders(0), parent.memory.orders(1)) == ([], [OpenRegion(opened, HANDLE)])
        assert (await parent.ask(UnregisterRegions("", is_cuda=False))).code == ""
        assert parent.registrar.shared.cuda_regions == (opened,), "the other kind of memory"
        assert (await parent.ask(UnregisterRegions("r", is_cuda=True))).code == ""
        assert not parent.registrar.shared.cuda_regions
        assert parent.sent[-1] == (1, CloseRegions((1,)))
        assert parent.memory.orders(1) == []
        assert "secret" not in repr(parent.memory)

    play(scenario)


def test_a_name_is_one_regions_and_every_registration_has_a_number_of_its_own() -> None:
    async def scenario() -> None:
        parent = Parent()
        await parent.register()
        again = await parent.register()
        assert again.code == Code.EXISTS
        assert "registered already" in again.message
        system = await parent.ask(RegisterRegion(Region("r", "k", 0, 8)))
        assert system.code in (Code.EXISTS, Code.UNSUPPORTED)
        await parent.ask(UnregisterRegions("r", is_cuda=True))
        await parent.register()
        assert [region.id for region in parent.registrar.shared.cuda_regions] == [2]

    play(scenario)


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"device_id": 2}, "device_id 2 is no GPU of this server: it has 0, 1"),
        ({"device_id": -1}, "device_id -1 is no GPU of this server"),
        ({"size": 0}, "byte_size must be above zero"),
        ({"size": 1 << 63}, "byte_size must be above zero"),
        ({"handle": b"a-secret"}, "a CUDA IPC handle has 64 bytes, raw_handle has 8"),
        ({"name": "a/b"}, "without '/'"),
    ],
)
def test_what_cannot_be_registered_is_refused_without_repeating_the_handle(
    wanted: dict[str, Any], sentence: str
) -> None:
    async def scenario() -> None:
        parent = Parent()
        answer = await parent.register(**wanted)
        assert (answer.code, sentence in answer.message) == (Code.INVALID, True), answer
        assert "secret" not in answer.message
        assert (parent.sent, parent.registrar.shared.cuda_regions) == ([], ())

    play(scenario)


def test_it_is_refused_with_the_reason_where_it_is_off_or_no_gpu_is_there() -> None:
    async def scenario() -> None:
        for parent, reason in ((Parent(is_on=False), OFF), (Parent("cpu"), NO_GPU)):
            assert not parent.memory.is_usable
            answer = await parent.register()
            assert (answer.code, answer.message) == (Code.UNSUPPORTED, reason)
        parent = Parent("cpu")
        parent.registrar = Registrar(
            Shared(), models=FakeModels, has_shared_memory=False, publish=lambda: None, reply=lambda *_: None
        )
        with pytest.raises(Unsupported):
            await parent.registrar.memory.open(REGIONS[0], HANDLE)

    play(scenario)


def test_what_an_engine_cannot_open_is_not_registered_and_one_that_is_away_is_not_waited_for() -> None:
    async def scenario() -> None:
        parent = Parent(reason="shared memory region 'r': CUDA does not open its handle (error 1)")
        answer = await parent.register()
        assert (answer.code, "error 1" in answer.message) == (Code.INVALID, True)
        assert parent.sent[-1] == (1, CloseRegions((1,)))
        parent = Parent(reason=None)
        with pytest.raises(Unavailable, match="the engine on cuda:1 did not open"):
            await parent.memory.open(CudaRegion("r", 1, 64), HANDLE)
        assert parent.memory.orders(1) == []
        parent.memory.opened(RegionOpened(1))  # too late, and harmless

    play(scenario)


def test_a_handle_is_base64() -> None:
    assert read_handle(base64.b64encode(HANDLE).decode()) == HANDLE
    with pytest.raises(InvalidInput, match="must be a CUDA IPC handle in base64"):
        read_handle("no base64!")


def request(**changes: Any) -> InferRequest:
    values: dict[str, Any] = {
        "model": "double",
        "version": "",
        "inputs": (Tensor("x", "FP32", (1, 3), b""),),
        "shared_inputs": {"x": Placement("a", 12, 4)},
    }
    return InferRequest(**{**values, **changes})


def test_what_lies_in_a_gpus_region_is_told_apart() -> None:
    plain = request(shared_inputs={"x": Placement("system", 12)})
    assert take_places(plain, REGIONS) is plain
    found = take_places(request(), REGIONS)
    assert found.on_gpu == OnGpu("cuda:0", {"x": Placement("a", 12, 4)}, {}, {"a": 3})
    assert (found.shared_inputs, len(found.inputs[0].data)) == ({}, 12)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shared_inputs": {"x": Placement("a", 12, 60)}}, "input 'x': shared memory region 'a' has 64 bytes"),
        ({"shared_outputs": {"y": Placement("a", 65)}}, "output 'y': shared memory region 'a' has 64 bytes"),
        ({"shared_outputs": {"y": Placement("b", 12)}}, "lie on cuda:0 and cuda:1: place those of one request on one"),
        (
            {"shared_outputs": {"y": Placement("a", 12)}, "outputs": (RequestedOutput("y", classification=2),)},
            "classes do not go into CUDA shared memory",
        ),
        ({"inputs": (Tensor("x", "BYTES", (1, 3), b""),)}, "BYTES do not go into CUDA shared memory"),
        ({"shared_inputs": {"x": Placement("a", 8)}}, "with 8 bytes: this shape takes 12"),
    ],
)
def test_what_cannot_lie_there_is_refused(changes: dict[str, Any], sentence: str) -> None:
    plane = Plane(FakeStreams(), FakeCounter())
    plane.catalog, plane.cuda_regions = catalog(), REGIONS
    with pytest.raises(ServiceError) as refused:
        asyncio.run(plane.infer(request(**changes)))
    assert isinstance(refused.value, InvalidInput)
    assert sentence in str(refused.value)


class GpuEngines(FakeStreams):
    """Reads and writes regions itself: nothing comes, nothing goes."""

    async def infer(self, message: Infer, blobs: Sequence[Any]) -> tuple[Result, list[memoryview]]:
        self.asked.append(message)
        assert list(map(len, blobs)) == [0]
        return Result(message.id, ((1, 3),), (0,), (1, 2, 3, 4, 5), 1, 1), [memoryview(b"")]


def test_the_engine_is_told_the_places_and_the_client_the_size_of_what_was_written() -> None:
    engines = GpuEngines()
    plane = Plane(engines, FakeCounter())
    plane.catalog, plane.cuda_regions = catalog(), REGIONS
    wanted = request(shared_outputs={"y": Placement("a", 48, 16)}, outputs=(RequestedOutput("y"),))
    response = asyncio.run(plane.infer(wanted))
    (message,) = engines.asked
    assert message.places == Places("cuda:0", (Place(0, 3, 4, 12),), (Place(0, 3, 16, 48),))
    assert message.sizes == (0,)
    assert response.shared == {"y": Placement("a", 12, 16)}
