"""Messages whose like came before: answered as in the usual way, and what is not quite the same is parsed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.spec import TensorSpec
from protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.engine.messages import Result
from service.errors import QueueFull, ServiceError
from service.observe.watching import Watcher
from service.plane import Plane
from service.repository.catalog import Catalog
from service.rpc.codec import decode
from service.rpc.familiar import MAX_FORMS, MAX_KINDS, MAX_TRIES, Familiar
from service.tensors import InferRequest
from tests.fakes import FakeCounter, FakeEngines, catalog, entry
from tests.service.rest.remembering import Engines
from tests.service.rpc.fakes import serving

PAIR = entry(
    name="pair",
    inputs=(TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "UINT8", (-1, 200))),
    outputs=(TensorSpec("p", "FP32", (-1, 2)), TensorSpec("q", "UINT8", (-1, 200))),
)


def make_plane(engines: Any = None) -> Plane:
    plane = Plane(engines or FakeEngines(), FakeCounter())
    plane.catalog = catalog(PAIR)
    return plane


def double(*values: float, **more: Any) -> ModelInferRequest:
    message = ModelInferRequest(model_name="double", **more)
    message.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    message.raw_input_contents.append(np.array(values or (1, 2, 3), np.float32).tobytes())
    return message


def pair(**more: Any) -> ModelInferRequest:
    message = ModelInferRequest(model_name="pair", model_version="1", **more)
    message.inputs.add(name="b", datatype="UINT8", shape=[1, 200])
    message.inputs.add(name="a", datatype="FP32", shape=[1, 2])
    message.raw_input_contents.extend([bytes(range(200)), bytes(8)])
    return message


def taught(*messages: ModelInferRequest) -> Familiar:
    familiar = Familiar(make_plane())
    for message in messages:
        for _ in range(2):
            familiar.find(message.SerializeToString())
    return familiar


def with_outputs(message: ModelInferRequest, *names: str) -> ModelInferRequest:
    for name in names:
        message.outputs.add(name=name)
    return message


SEEDS = [double(), double(id="seven"), double(id="x" * 150), pair(), pair(id="7"), with_outputs(pair(id="x"), "q", "p")]
MUTATIONS = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.binary(max_size=3)), max_size=4)


@pytest.mark.parametrize("message", SEEDS)
def test_the_third_of_its_kind_is_found_with_any_id_and_any_tensors(message: ModelInferRequest) -> None:
    familiar = taught(message)
    other = ModelInferRequest.FromString(message.SerializeToString())
    other.id = "another id"
    for index, data in enumerate(other.raw_input_contents):
        other.raw_input_contents[index] = bytes(len(data))
    found = familiar.find(other.SerializeToString())
    assert found is not None
    assert found.identity == b"\x1a\x0aanother id"
    assert [bytes(tensor) for tensor in found.tensors] == list(other.raw_input_contents)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(SEEDS), MUTATIONS)
def test_what_is_found_is_what_protobuf_reads(seed: ModelInferRequest, mutations: Any) -> None:
    data = bytearray(seed.SerializeToString())
    for at, count, replaced in mutations:
        data[at % (len(data) + 1) : at % (len(data) + 1) + count] = replaced
    familiar = taught(*SEEDS)
    for _ in range(2):
        familiar.find(bytes(data))  # let it learn the mutated one too
    for index in (0, len(data) // 2, len(data) - 1):  # and compare it with what differs in a byte
        agree(familiar, bytes(data))
        if data:
            data[index] ^= 1
            agree(familiar, bytes(data))


def agree(familiar: Familiar, data: bytes) -> None:
    found = familiar.find(data)
    if found is None:
        return
    try:
        asked = decode(ModelInferRequest.FromString(data), deadline=None, arrived=0.0)
    except (DecodeError, ServiceError) as error:
        raise AssertionError(f"found, but refused in the usual way: {error}") from error
    request = found.form.template.request
    assert [bytes(tensor) for tensor in found.tensors] == [tensor.data for tensor in asked.inputs]
    assert found.id == asked.id
    assert described(request) == described(asked)


def described(request: InferRequest) -> Any:
    tensors = [(tensor.name, tensor.datatype, tensor.shape) for tensor in request.inputs]
    return request.model, request.version, tensors, request.outputs, request.priority, request.timeout_us


@pytest.mark.parametrize("identity", ["", "a", "x" * 127, "x" * 128, "x" * 4096])
@pytest.mark.parametrize("asked", [(), ("q",), ("q", "p")])
def test_the_answer_is_byte_for_byte_that_of_protobuf(identity: str, asked: tuple[str, ...]) -> None:
    seed = with_outputs(pair(), *asked)
    familiar = taught(seed)
    seed.id = identity
    found = familiar.find(seed.SerializeToString())
    assert found is not None
    blobs = [memoryview(bytes(8)), memoryview(bytes(range(200)))]
    result = Result(1, ((1, 2), (1, 200)), (8, 200), (1, 2, 3, 4, 5), 1, 1)
    message = ModelInferResponse(model_name="pair", model_version="1", id=identity)
    for name in asked or ("p", "q"):
        index = ("p", "q").index(name)
        spec = PAIR.outputs[index]
        message.outputs.add(name=name, datatype=spec.datatype, shape=result.shapes[index])
        message.raw_output_contents.append(bytes(blobs[index]))
    for _ in range(2):
        assert found.form.answer(found.identity, result, blobs) == message.SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x0a",
        double(id="é").SerializeToString(),
        double(id="é" + "x" * 200).SerializeToString(),
        double(id="a").SerializeToString().replace(b"\x1a\x01a", b"\x1a\x01\xff"),
        double(id="x" * 4097).SerializeToString(),
        double(model_version="9" * 128).SerializeToString(),
        double().SerializeToString() + b"\x1a\x01a",  # the id once more, and it counts
        double().SerializeToString() + b"\x10\x01",  # of a field that is no text
        double().SerializeToString()[:-1],
        with_outputs(double(), "nothing").SerializeToString(),
    ],
)
def test_what_is_not_plain_is_never_found(data: bytes) -> None:
    familiar = taught(double())
    assert [familiar.find(data) for _ in range(4)] == [None] * 4


def test_a_new_catalog_and_a_drain_end_what_was_found() -> None:
    plane = make_plane()
    familiar, data = Familiar(plane), double().SerializeToString()
    found = [familiar.find(data) is not None for _ in range(3)]
    plane.catalog = Catalog((entry(version="7"),))
    found += [familiar.find(data) is not None for _ in range(3)]
    plane.is_draining = True
    assert [*found, familiar.find(data)] == [False, False, True, False, False, True, None]


def test_what_is_remembered_has_a_bound() -> None:
    familiar = taught()
    for number in range(2 * MAX_KINDS):
        familiar.find(bytes((10, 4)) + number.to_bytes(4, "big") + b"x")
    assert repr(familiar) == f"<Familiar {MAX_KINDS} kinds, 0 forms>"
    for number in range(MAX_TRIES + 3):
        message = double()
        message.parameters["priority"].int64_param = number + 1
        for _ in range(3):
            familiar.find(message.SerializeToString())
    assert repr(familiar).endswith(f" {MAX_TRIES} forms>")
    assert MAX_TRIES < MAX_FORMS


async def ask(stub: Any, engines: Engines, message: ModelInferRequest, error: ServiceError | None = None) -> Any:
    """The answer of a call that is begun on the lane."""
    call = asyncio.ensure_future(stub.ModelInfer(message))
    await until(lambda: bool(engines.waiting) or call.done())
    engines.answer(error)
    return await call


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  # it is gRPC's threads that bring it about
            await asyncio.sleep(0)


async def teach(stub: Any) -> None:
    for _ in range(2):
        await stub.ModelInfer(double())


def test_a_call_is_answered_counted_and_refused_as_ever() -> None:
    engines = Engines()
    plane = make_plane(engines)

    async def check() -> None:
        async with serving(plane) as (_, stub, _channel):
            first = await stub.ModelInfer(double(id="1"))
            assert (await stub.ModelInfer(double(id="1"))) == first
            assert await ask(stub, engines, double(id="1")) == first
            assert (engines.asked, engines.begun) == (2, 1)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(stub, engines, double(), QueueFull("full: try again"))
            assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.UNAVAILABLE, "full: try again")
            trailers = {str(key): value for key, value in refused.value.trailing_metadata()}
            assert trailers == {"grpc-retry-pushback-ms": "1000"}
            engines.absent = True
            assert (await stub.ModelInfer(double(id="1"))) == first
            assert engines.resent == 1

    asyncio.run(check())
    outcomes = [(protocol, outcome) for _, _, protocol, outcome, _ in plane._counter.ended]  # type: ignore[attr-defined]
    assert outcomes == [("grpc", "success")] * 3 + [("grpc", "rejected")] + [("grpc", "success")]
    assert plane.in_flight == 0


def test_who_leaves_takes_the_request_back() -> None:
    engines = Engines()
    plane = make_plane(engines)

    async def check() -> None:
        async with serving(plane) as (_, stub, _channel):
            await teach(stub)
            call = stub.ModelInfer(double())
            begun = asyncio.ensure_future(call.code())
            await until(lambda: bool(engines.waiting))
            call.cancel()
            assert await begun is grpc.StatusCode.CANCELLED
            await until(lambda: bool(engines.withdrawn))
        assert plane.in_flight == 0

    asyncio.run(check())


def test_a_deadline_travels_with_the_request_and_ends_it() -> None:
    engines = Engines()
    plane = make_plane(engines)

    async def check() -> None:
        async with serving(plane) as (_, stub, _channel):
            await teach(stub)
            began = time.monotonic()
            call = asyncio.ensure_future(stub.ModelInfer(double(), timeout=50.0))
            await until(lambda: bool(engines.waiting))
            ((message, _, _),) = engines.waiting.values()
            assert message.deadline is not None
            assert began + 49 < message.deadline < time.monotonic() + 50.5, "gRPC rounds it up on its way"
            engines.answer()
            await call
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await stub.ModelInfer(double(), timeout=0.2)
            assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: bool(engines.withdrawn))
            engines.absent = True
            await stub.ModelInfer(double(), timeout=50.0)
            assert engines.resent_until is not None, "another engine has no more time"

    asyncio.run(check())
    assert (engines.asked, engines.begun, plane.in_flight) == (2, 2, 0)


@pytest.mark.parametrize(
    "special",
    [
        {"metadata": (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)},
        {"metadata": (("server-timing", "1"),)},
    ],
)
def test_calls_with_more_than_a_message_go_the_usual_way(special: dict[str, Any]) -> None:
    engines = Engines()

    async def check() -> None:
        async with serving(make_plane(engines)) as (_, stub, _channel):
            await teach(stub)
            await stub.ModelInfer(double(), **special)

    asyncio.run(check())
    assert (engines.asked, engines.begun) == (3, 0)


def test_calls_that_somebody_watches_go_the_usual_way() -> None:
    engines = Engines()

    async def check() -> None:
        async with serving(make_plane(engines), watcher=Watcher(slow_s=10.0)) as (_, stub, _channel):
            await teach(stub)
            await stub.ModelInfer(double())

    asyncio.run(check())
    assert (engines.asked, engines.begun) == (3, 0)
