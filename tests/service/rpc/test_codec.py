"""Messages to requests and answers to messages: every datatype, both ways of carrying data, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from service.client.rpc import arrays_of, tensor_of
from service.errors import InvalidInput, ServiceError
from service.rpc.codec import CONTENTS, decode, encode
from service.tensors import (
    NUMPY_TYPES,
    InferRequest,
    InferResponse,
    Placement,
    RequestedOutput,
    SequencePoint,
    Tensor,
    to_numpy,
)

ARRAYS = st.sampled_from(list(NUMPY_TYPES.values())).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
BYTES_ARRAYS = hnp.arrays(
    object, hnp.array_shapes(max_dims=2, max_side=3), elements=st.binary(max_size=20), fill=st.nothing()
)


def read(message: ModelInferRequest) -> InferRequest:
    return decode(message, deadline=None, arrived=1.0)


def typed(datatype: str, shape: tuple[int, ...], field: str = "", values: Any = ()) -> ModelInferRequest:
    message = ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    getattr(tensor.contents, field or CONTENTS[datatype]).extend(values)
    return message


def raw(*data: bytes, inputs: int | None = None) -> ModelInferRequest:
    message = ModelInferRequest(model_name="m", raw_input_contents=data)
    for at in range(len(data) if inputs is None else inputs):
        message.inputs.add(name=f"x{at}", datatype="UINT8", shape=[2])
    return message


def test_the_names_version_id_and_outputs_are_passed_on() -> None:
    message = ModelInferRequest(model_name="m", model_version="3", id="seven")
    message.outputs.add(name="a")
    message.outputs.add(name="b").parameters["classification"].int64_param = 5
    request = decode(message, deadline=12.5, arrived=11.0)
    assert (request.model, request.version, request.id, request.protocol) == ("m", "3", "seven", "grpc")
    assert (request.deadline, request.arrived) == (12.5, 11.0)
    assert request.outputs == (RequestedOutput("a"), RequestedOutput("b", 5))


@given(st.lists(ARRAYS | BYTES_ARRAYS, max_size=3))
def test_raw_contents_arrive_as_they_were_sent(arrays: list[np.ndarray[Any, Any]]) -> None:
    message = ModelInferRequest(model_name="m")
    for at, array in enumerate(arrays):
        sent = tensor_of(f"x{at}", array)
        message.inputs.add(name=sent.name, datatype=sent.datatype, shape=sent.shape)
        message.raw_input_contents.append(bytes(sent.data))
    request = read(ModelInferRequest.FromString(message.SerializeToString()))
    assert [tensor.name for tensor in request.inputs] == [f"x{at}" for at in range(len(arrays))]
    for tensor, array in zip(request.inputs, arrays, strict=True):
        np.testing.assert_array_equal(to_numpy(tensor), array)


@given(ARRAYS.filter(lambda array: array.dtype != np.float16))
def test_typed_contents_make_the_same_bytes_as_raw_ones(array: np.ndarray[Any, Any]) -> None:
    sent = tensor_of("x", array)
    (tensor,) = read(typed(sent.datatype, sent.shape, values=array.reshape(-1).tolist())).inputs
    assert (tensor.datatype, tensor.shape, bytes(tensor.data)) == (sent.datatype, sent.shape, bytes(sent.data))


def test_typed_bytes_are_packed_with_their_lengths() -> None:
    (tensor,) = read(typed("BYTES", (2,), values=[b"ab", b""])).inputs
    assert tensor.data == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


@given(st.lists(ARRAYS | BYTES_ARRAYS, max_size=3))
def test_answers_carry_raw_bytes_in_order(arrays: list[np.ndarray[Any, Any]]) -> None:
    outputs = tuple(tensor_of(f"y{at}", array) for at, array in enumerate(arrays))
    views = tuple(Tensor(each.name, each.datatype, each.shape, memoryview(each.data)) for each in outputs)
    message = encode(InferResponse("m", "2", "id", views))
    assert (message.model_name, message.model_version, message.id) == ("m", "2", "id")
    assert len(message.raw_output_contents) == len(arrays)
    assert not any(output.HasField("contents") for output in message.outputs)
    back = arrays_of(ModelInferResponse.FromString(message.SerializeToString()))
    for at, array in enumerate(arrays):
        np.testing.assert_array_equal(back[f"y{at}"], array)


def test_bf16_travels_as_two_bytes_and_comes_back_as_float32() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the one source of a bfloat16 for numpy")
    sent = tensor_of("x", np.array([1.5, -2.0], ml_dtypes.bfloat16))
    assert (sent.datatype, len(sent.data)) == ("BF16", 4)
    back = arrays_of(encode(InferResponse("m", "1", "", (sent,))))["x"]
    assert back.dtype == np.float32
    assert back.tolist() == [1.5, -2.0]


def test_a_big_endian_array_is_sent_little_endian() -> None:
    sent = tensor_of("x", np.array([1, 2], ">i4"))
    assert (sent.datatype, sent.data) == ("INT32", b"\x01\0\0\0\x02\0\0\0")


def test_an_array_without_a_datatype_is_refused() -> None:
    with pytest.raises(InvalidInput, match="complex64: cast it"):
        tensor_of("x", np.zeros(2, np.complex64))


def mixed() -> ModelInferRequest:
    message = raw(b"ab", b"cd")
    message.inputs[1].contents.uint_contents.extend([1, 2])
    return message


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (raw(b"ab", inputs=2), "raw_input_contents has 1 entries for 2 inputs"),
        (raw(b"ab", inputs=0), "raw_input_contents has 1 entries for 0 inputs"),
        (mixed(), "input 'x1' has contents although"),
        (raw(inputs=1), "0 values, shape .2. takes 2: send data in raw_input_contents"),
        (typed("FP16", (1,), "fp32_contents", [1.0]), "FP16 has no typed contents: send its bytes in raw"),
        (typed("BF16", (1,), "fp32_contents", [1.0]), "BF16 has no typed contents: send its bytes in raw"),
        (typed("INT4", (1,), "int_contents", [1]), "unknown datatype 'INT4': choose one of BOOL, "),
        (typed("INT32", (1,), "fp32_contents", [1.0]), "INT32 go into int_contents, this request fills fp32_contents"),
        (typed("FP32", (2, 2), values=[1.0, 2.0, 3.0]), r"3 values, shape \[2,2\] takes 4"),
        (typed("INT8", (2,), values=[1, 128]), r"128 does not fit INT8 \(-128 to 127\)"),
        (typed("UINT16", (1,), values=[65536]), "65536 does not fit UINT16"),
    ],
)
def test_what_the_message_gets_wrong_is_refused_with_the_remedy(message: ModelInferRequest, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read(message)


def test_an_empty_contents_message_beside_raw_bytes_is_no_mixture() -> None:
    message = raw(b"ab")
    message.inputs[0].contents.SetInParent()
    assert read(message).inputs[0].data == b"ab"


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_timeout_and_priority_are_read_from_either_integer_kind(kind: str) -> None:
    message = raw(b"ab")
    setattr(message.parameters["timeout"], kind, 1500)
    setattr(message.parameters["priority"], kind, 2)
    request = read(message)
    assert (request.timeout_us, request.priority) == (1500, 2)


def with_parameter(key: str, **value: Any) -> ModelInferRequest:
    message = raw(b"ab")
    for kind, chosen in value.items():
        setattr(message.parameters[key], kind, chosen)
    return message


def on_input(key: str) -> ModelInferRequest:
    message = raw(inputs=1)
    message.inputs[0].parameters[key].string_param = "region"
    return message


def on_output(key: str, **value: Any) -> ModelInferRequest:
    message = raw(b"ab")
    parameter = message.outputs.add(name="y").parameters[key]
    for kind, chosen in value.items():
        setattr(parameter, kind, chosen)
    return message


def place(parameters: Any, region: str, **sizes: int) -> None:
    parameters["shared_memory_region"].string_param = region
    for key, size in sizes.items():
        parameters[f"shared_memory_{key}"].int64_param = size


def test_inputs_in_shared_memory_have_no_entry_among_the_raw_contents() -> None:
    message = raw(b"ab", inputs=3)
    place(message.inputs[0].parameters, "r", byte_size=2, offset=8)
    place(message.inputs[2].parameters, "s", byte_size=2)
    place(message.outputs.add(name="y").parameters, "t", byte_size=4)
    request = read(message)
    assert [tensor.data for tensor in request.inputs] == [b"", b"ab", b""]
    assert request.shared_inputs == {"x0": Placement("r", 2, 8), "x2": Placement("s", 2)}
    assert request.shared_outputs == {"y": Placement("t", 4)}


def test_all_inputs_may_lie_in_shared_memory() -> None:
    message = raw(inputs=1)
    place(message.inputs[0].parameters, "r", byte_size=2)
    assert read(message).inputs[0].data == b""
    message.inputs[0].contents.fp32_contents.append(1.0)
    with pytest.raises(InvalidInput, match="input 'x0' has contents and a shared_memory_region"):
        read(message)


def test_an_output_in_shared_memory_has_an_empty_raw_entry_and_says_where_it_lies() -> None:
    message = encode(
        InferResponse("m", "1", "", (Tensor("y", "FP32", (2,), b""),), shared={"y": Placement("r", 8, 16)})
    )
    assert list(message.raw_output_contents) == [b""]
    parameters = message.outputs[0].parameters
    assert parameters["shared_memory_region"].string_param == "r"
    assert [parameters[f"shared_memory_{key}"].int64_param for key in ("byte_size", "offset")] == [8, 16]


@pytest.mark.parametrize(
    ("message", "error", "sentence"),
    [
        (with_parameter("timeout", string_param="5"), InvalidInput, "'timeout' of the request is '5': send a whole"),
        (with_parameter("timeout", int64_param=-1), InvalidInput, "'timeout' of the request is -1"),
        (with_parameter("priority", bool_param=True), InvalidInput, "'priority' of the request is True"),
        (with_parameter("triton_x", int64_param=1), InvalidInput, "'triton_x': names that begin with 'triton_'"),
        (with_parameter("sequence_id", double_param=7.5), InvalidInput, "'sequence_id' must be a whole number"),
        (with_parameter("sequence_start", bool_param=True), InvalidInput, "send its sequence_id too"),
        (on_input("shared_memory_region"), InvalidInput, "input 'x0': shared_memory_byte_size must be a number"),
        (on_output("shared_memory_region", int64_param=1), InvalidInput, "output 'y': shared_memory_region must be"),
        (on_output("classification", double_param=1.5), InvalidInput, "'classification' of output 'y' is 1.5"),
    ],
)
def test_parameters_are_refused_with_the_remedy(
    message: ModelInferRequest, error: type[ServiceError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        read(message)


@pytest.mark.parametrize(
    "message",
    [
        with_parameter("sequence_id", int64_param=0),
        with_parameter("sequence_id", string_param=""),
        with_parameter("sequence_end", bool_param=False),
        with_parameter("triton_enable_empty_final_response", bool_param=True),
        with_parameter("my_own", string_param="value"),
    ],
)
def test_parameters_that_ask_for_nothing_special_pass(message: ModelInferRequest) -> None:
    assert read(message).inputs[0].data == b"ab"
    assert read(message).sequence is None


@pytest.mark.parametrize(
    ("value", "identity"),
    [
        ({"int64_param": 7}, 7),
        ({"int64_param": -1}, (1 << 64) - 1),  # as a C++ client sends it
        ({"uint64_param": (1 << 64) - 1}, (1 << 64) - 1),
        ({"string_param": "a"}, "a"),
    ],
)
def test_a_request_may_belong_to_a_sequence(value: dict[str, Any], identity: int | str) -> None:
    message = with_parameter("sequence_id", **value)
    message.parameters["sequence_start"].bool_param = True
    assert read(message).sequence == SequencePoint(identity, is_start=True)


def seed() -> bytes:
    message = typed("INT8", (2,), values=[1, 2])
    message.parameters["timeout"].int64_param = 5
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    return message.SerializeToString()


@settings(max_examples=300)
@given(st.sampled_from([seed(), raw(b"ab", b"cd").SerializeToString()]), st.data())
def test_mutated_messages_raise_nothing_but_service_errors(original: bytes, data: st.DataObject) -> None:
    body = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        if not body:
            break
    try:
        message = ModelInferRequest.FromString(bytes(body))
    except DecodeError:
        return  # gRPC itself refuses these
    try:
        request = read(message)
    except ServiceError:
        return
    assert len(request.inputs) == len(message.inputs)
