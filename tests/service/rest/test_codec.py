"""The v2 codec: every datatype there and back, every malformed request refused with a sentence."""

import contextlib
import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput, ServiceError
from service.rest.codec import encode_infer, parse_infer, parse_json
from service.tensors import (
    NUMPY_TYPES,
    InferRequest,
    InferResponse,
    Placement,
    RequestedOutput,
    SequencePoint,
    Tensor,
    float32_to_bf16,
    pack_bytes,
    to_numpy,
)

DATATYPES = [*NUMPY_TYPES, "BF16", "BYTES"]


def v2(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}], **changes}


def parse(request: Any, blobs: bytes = b"") -> Any:
    text = json.dumps(request).encode()  # orjson would refuse what a hostile client can write
    return parse_infer(memoryview(text + blobs), len(text) if blobs else None)


def sample(datatype: str, shape: tuple[int, ...]) -> Tensor:
    generator = np.random.default_rng(7)
    count = int(np.prod(shape))
    if datatype == "BYTES":
        return Tensor("x", datatype, shape, pack_bytes([f"ä{index}".encode() for index in range(count)]))
    if datatype == "BF16":
        return Tensor("x", datatype, shape, float32_to_bf16(generator.normal(size=count)))
    values = generator.integers(0, 2 if datatype == "BOOL" else 100, count).astype(NUMPY_TYPES[datatype])
    return Tensor("x", datatype, shape, values.tobytes())


def as_request(tensor: Tensor, binary: bool) -> tuple[dict[str, Any], bytes]:
    """What a client would send to give this tensor: our own answer, turned around."""
    text, blobs = encode_infer(InferResponse("m", "1", "", (tensor,)), {}, binary)
    return {"inputs": orjson.loads(text)["outputs"]}, b"".join(blobs)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (), (1,)])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_survives_the_way_there_and_back(datatype: str, shape: tuple[int, ...], binary: bool) -> None:
    tensor = sample(datatype, shape)
    (parsed,) = parse(*as_request(tensor, binary)).inputs
    assert (parsed.name, parsed.datatype, parsed.shape) == ("x", datatype, shape)
    assert bytes(parsed.data) == bytes(tensor.data)


def test_nested_and_flat_data_are_the_same() -> None:
    nested = parse(v2(inputs=[{"name": "x", "datatype": "INT8", "shape": [2, 2], "data": [[1, 2], [3, -4]]}]))
    flat = parse(v2(inputs=[{"name": "x", "datatype": "INT8", "shape": [2, 2], "data": [1, 2, 3, -4]}]))
    assert nested.inputs == flat.inputs


def test_large_and_small_whole_numbers_together_stay_exact() -> None:
    values = [1, (1 << 63) + 1, (1 << 64) - 1]
    (tensor,) = parse(v2(inputs=[{"name": "x", "datatype": "UINT64", "shape": [3], "data": values}])).inputs
    assert to_numpy(tensor).tolist() == values


def test_nan_and_infinity_travel_both_ways() -> None:
    text = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[3],"data":[NaN,Infinity,-Infinity]}]}'
    (tensor,) = parse_infer(memoryview(text), None).inputs
    np.testing.assert_array_equal(to_numpy(tensor), np.array([np.nan, np.inf, -np.inf], np.float32))
    answer, _ = encode_infer(InferResponse("m", "1", "", (tensor,)), {}, False)
    assert b"[NaN, Infinity, -Infinity]" in answer


def test_binary_and_json_outputs_mix_as_asked() -> None:
    one, two = Tensor("one", "FP32", (1,), bytes(4)), Tensor("two", "FP32", (1,), bytes(4))
    text, blobs = encode_infer(InferResponse("m", "3", "id", (one, two)), {"one": True}, binary_default=False)
    answer = orjson.loads(text)
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert "data" not in answer["outputs"][0]
    assert answer["outputs"][1]["data"] == [0.0]
    assert "parameters" not in answer["outputs"][1], "the C++ client refuses any other parameters"
    assert (answer["id"], answer["model_version"], list(blobs)) == ("id", "3", [one.data])


def test_reads_what_is_asked_of_the_outputs_and_the_queue() -> None:
    parsed = parse(
        v2(
            id="a",
            parameters={"timeout": 500, "priority": 1, "binary_data_output": True, "mine": "x"},
            outputs=[{"name": "y", "parameters": {"classification": 3, "binary_data": False}}],
        )
    )
    assert (parsed.id, parsed.timeout_us, parsed.priority, parsed.binary_default) == ("a", 500, 1, True)
    assert parsed.outputs == (RequestedOutput("y", 3),)
    assert parsed.binary == {"y": False}


def test_what_the_headers_said_stays() -> None:
    bare = InferRequest("digits", "1", (), arrived=3.0, trace="00-1-2-01")
    asked = parse(v2(id="a")).asked_of(bare)
    assert (asked.model, asked.version, asked.id) == ("digits", "1", "a")
    assert (asked.arrived, asked.trace) == (3.0, "00-1-2-01")


def change(**changes: Any) -> dict[str, Any]:
    item = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}
    return v2(inputs=[{key: value for key, value in item.items() if value is not ...}])


REFUSED: list[tuple[Any, str]] = [
    ([], "must be a JSON object, got a list"),
    ({}, "inputs must be a list, got nothing"),
    (v2(inputs=[5]), "an input must be a JSON object, got a number"),
    (change(name=...), "every input needs a name"),
    (change(datatype="FP23"), "datatype 'FP23' is unknown: use one of BOOL"),
    (change(shape=[1, -2]), r"shape must be a list of sizes, zero or more, got \[1, -2\]"),
    (change(shape=[1, True]), "shape must be a list of sizes"),
    (change(shape=[1] * 40), "shape has 40 dimensions, at most 32"),
    (change(data=[1]), r"data has 1 values, shape \[1,2\] takes 2"),
    (change(data=...), "neither data nor a binary_data_size"),
    (change(data=[[1], [2, 3]]), "not a regular array"),
    (change(datatype="BYTES", data=[["a"], ["b", "c"]]), "some of its lists have other lengths"),
    (change(data=["a", "b"]), "FP32 takes numbers, data holds text"),
    (change(data=[None, 1]), "FP32 takes numbers"),
    (change(datatype="INT8", data=[1, 200]), r"200 does not fit INT8 \(-128 to 127\)"),
    (change(datatype="UINT8", data=[-1, 0]), "-1 does not fit UINT8"),
    (change(datatype="INT32", data=[1.5, 2]), "INT32 takes whole numbers, data holds fractions"),
    (change(datatype="BOOL", data=[1, 0]), "BOOL takes true or false"),
    (change(datatype="UINT64", data=[1, 1 << 65]), "UINT64 takes whole numbers"),
    (change(datatype="BYTES", data=[1, 2]), "BYTES takes strings"),
    (change(parameters={"binary_data_size": 8}), "both data and binary_data_size"),
    (change(data=..., parameters={"binary_data_size": 8}), "binary_data_size is 8, but only 0 bytes are left"),
    (change(data=..., parameters={"binary_data_size": -8}), "must be a number of bytes"),
    (change(data=..., parameters={"binary_data_size": True}), "must be a number of bytes"),
    (v2(id=7), "id must be a string"),
    (v2(outputs=[{}]), "every output needs a name"),
    (v2(outputs=[{"name": "y", "parameters": {"classification": -1}}]), "classification must be a number"),
    (v2(parameters={"timeout": "soon"}), "'timeout' must be a whole number"),
    (v2(parameters={"triton_x": 1}), "'triton_x' is reserved"),
    (
        v2(parameters={"sequence_id": -1}),
        r"'sequence_id' must be a whole number from 0 to 2\^64 - 1, or a text, not -1",
    ),
    (v2(parameters={"sequence_id": 1 << 64}), "'sequence_id' must be a whole number"),
    (v2(parameters={"sequence_id": 1.5}), "'sequence_id' must be a whole number from 0"),
    (v2(parameters={"sequence_id": True}), "'sequence_id' must be a whole number"),
    (v2(parameters={"sequence_id": "x" * 257}), "'sequence_id' has 257 characters: at most 256"),
    (v2(parameters={"sequence_id": 5, "sequence_end": 1}), "'sequence_end' must be true or false, not 1"),
    (v2(parameters={"sequence_id": 0, "sequence_start": True}), "belong to a sequence: send its sequence_id too"),
]


@pytest.mark.parametrize(("request_", "sentence"), REFUSED)
def test_refuses_with_a_sentence(request_: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parse(request_)


@pytest.mark.parametrize(
    ("parameters", "point"),
    [
        ({"sequence_id": 5}, SequencePoint(5)),
        ({"sequence_id": (1 << 64) - 1, "sequence_start": True}, SequencePoint((1 << 64) - 1, is_start=True)),
        ({"sequence_id": "a", "sequence_start": False, "sequence_end": True}, SequencePoint("a", is_end=True)),
        ({"sequence_id": 0, "sequence_start": False}, None),
        ({"sequence_id": ""}, None),
        ({}, None),
    ],
)
def test_a_request_may_belong_to_a_sequence(parameters: dict[str, Any], point: SequencePoint | None) -> None:
    assert parse(v2(parameters=parameters)).sequence == point


def test_inputs_and_outputs_may_lie_in_shared_memory() -> None:
    placed = {"shared_memory_region": "r", "shared_memory_byte_size": 24, "shared_memory_offset": 8}
    request = change(data=..., parameters=placed)
    request["outputs"] = [{"name": "y", "parameters": {"shared_memory_region": "s", "shared_memory_byte_size": 9}}]
    parsed = parse(request)
    assert [tensor.data for tensor in parsed.inputs if tensor.name in parsed.shared_inputs] == [b""]
    assert list(parsed.shared_inputs.values()) == [Placement("r", 24, 8)]
    assert parsed.shared_outputs == {"y": Placement("s", 9)}


def test_data_beside_a_region_and_a_region_without_size_are_refused() -> None:
    placed = {"shared_memory_region": "r", "shared_memory_byte_size": 24}
    with pytest.raises(InvalidInput, match="has data and a shared_memory_region: send one of them"):
        parse(change(parameters=placed))
    for wrong in ({"shared_memory_byte_size": -1}, {"shared_memory_byte_size": 1.5}, {"shared_memory_offset": "8"}):
        with pytest.raises(InvalidInput, match="must be a number of bytes, zero or more"):
            parse(change(data=..., parameters={**placed, **wrong}))


def test_an_output_in_shared_memory_is_answered_without_data_and_without_parameters() -> None:
    written = InferResponse("m", "1", "", (Tensor("y", "FP32", (2,), b""),), shared={"y": Placement("r", 8)})
    text, blobs = encode_infer(written, {}, True)
    assert json.loads(text)["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [2]}]
    assert not blobs


def test_left_over_bytes_are_an_error() -> None:
    request, blobs = as_request(sample("FP32", (2,)), binary=True)
    with pytest.raises(InvalidInput, match="12 bytes of binary data, its inputs' binary_data_size add up to 8"):
        parse(request, blobs + b"more")


@pytest.mark.parametrize("size", [0, 99])
def test_a_header_length_outside_the_body_is_an_error(size: int) -> None:
    with pytest.raises(InvalidInput, match="must be between 1 and that"):
        parse_infer(memoryview(b"{}"), size)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"nul", b"[" * 5000, b"NaN NaN", b'{"a":1}x'])
def test_broken_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="JSON"):
        parse_json(text)


VALID = orjson.dumps(
    v2(id="i", parameters={"timeout": 1}, outputs=[{"name": "y", "parameters": {"binary_data": True}}])
)


@given(
    st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6),
    st.none() | st.integers(0, 200),
)
def test_any_mutation_is_answered_or_refused_but_never_breaks(changes: list[tuple[int, int]], size: int | None) -> None:
    body = bytearray(VALID)
    for at, value in changes:
        body[at] = value
    with contextlib.suppress(ServiceError):
        parse_infer(memoryview(body), size)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("name", "datatype", "shape", "data", "parameters"), json_values),
    ),
    st.sampled_from(DATATYPES),
)
def test_any_json_for_an_input_is_answered_or_refused(item: dict[str, Any], datatype: str) -> None:
    for candidate in (item, {"name": "x", "datatype": datatype, "shape": [2], **item}):
        with contextlib.suppress(ServiceError):
            parse({"inputs": [candidate]})
