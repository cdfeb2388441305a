"""Messages whose like came before: answered as in the usual way, and what is not quite the same is parsed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.spec import TensorSpec
from protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.engine.messages import Result
from service.errors import ServiceError
from service.plane import Plane
from service.repository.catalog import Catalog
from service.rpc.codec import decode
from service.rpc.familiar import MAX_FORMS, MAX_KINDS, MAX_TRIES, Familiar
from service.tensors import InferRequest
from tests.fakes import FakeCounter, FakeEngines, catalog, entry

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
