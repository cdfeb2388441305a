"""Properties of the codecs and of the whole application: what goes in comes out, and no mutation is our fault."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import io
import json
from typing import Any

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from compiler.spec import TensorSpec
from service.errors import ServiceError
from service.rest.codec import encode_infer, parse_infer
from service.rest.json_text import find_depth, parse_json
from service.rest.raw import read_npy, read_raw, write_one
from service.rest.rows import columns_to_tensors, rows_to_columns, to_columns, to_rows
from service.tensors import NUMPY_TYPES, InferResponse, Tensor, float32_to_bf16, pack_bytes, to_numpy
from tests.fakes import entry
from tests.service.rest.asking import Client

SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
MODEL = entry(name="same", inputs=(TensorSpec("x", "FP32", (-1, 3)),), outputs=(TensorSpec("y", "FP32", (-1, 3)),))


@st.composite
def tensors(draw: st.DrawFn, with_rows: bool = False) -> Tensor:
    """Any datatype, shape and values, NaN and infinite ones too."""
    datatype = draw(st.sampled_from([*NUMPY_TYPES, "BF16", "BYTES"]))
    sides = st.integers(1, 3)
    shape = draw(st.tuples(sides, sides) if with_rows else SHAPES)
    if datatype == "BYTES":
        texts = st.lists(st.text(max_size=4), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))
        return Tensor("x", datatype, shape, pack_bytes([text.encode() for text in draw(texts)]))
    if datatype == "BF16":
        return Tensor("x", datatype, shape, float32_to_bf16(draw(arrays_of.arrays("<f4", shape))))
    return Tensor("x", datatype, shape, draw(arrays_of.arrays(NUMPY_TYPES[datatype], shape)).tobytes())


def assert_same(one: Tensor, other: Tensor) -> None:
    """The same values; one NaN is as good as another."""
    assert (one.name, one.datatype, one.shape) == (other.name, other.datatype, other.shape)
    np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


def answer_of(tensor: Tensor) -> InferResponse:
    return InferResponse("m", "1", "", (tensor,))


@given(tensors(), st.booleans())
def test_v2_gives_back_what_it_took(tensor: Tensor, binary: bool) -> None:
    text, blobs = encode_infer(answer_of(tensor), {}, binary)
    request = {"inputs": json.loads(text)["outputs"]}
    head = json.dumps(request).encode()
    (parsed,) = parse_infer(head + b"".join(blobs), len(head) if binary else None).inputs
    assert_same(parsed, tensor)


@given(tensors(with_rows=True), st.booleans())
def test_rows_and_columns_give_back_what_they_took(tensor: Tensor, by_row: bool) -> None:
    model = entry(inputs=(TensorSpec("x", tensor.datatype, (-1, -1)),))
    columns, _ = to_columns(answer_of(tensor))
    sent = json.loads(json.dumps(to_rows(columns) if by_row else columns, default=lambda array: array.tolist()))
    (read,) = columns_to_tensors(model, rows_to_columns(model, sent) if by_row else sent)
    assert_same(read, tensor)


@given(tensors(), st.sampled_from("CF"), st.sampled_from("<>"))
def test_npy_gives_back_what_it_took_in_every_layout(tensor: Tensor, order: Any, endian: Any) -> None:
    if tensor.datatype == "BYTES":
        return  # no .npy without pickle
    array, stream = to_numpy(tensor), io.BytesIO()
    np.save(stream, np.asarray(array, array.dtype.newbyteorder(endian), order=order))
    model = entry(inputs=(TensorSpec("x", tensor.datatype, tensor.shape),))
    read = read_npy(model, stream.getvalue())
    assert_same(read, tensor)
    _, blobs = write_one(answer_of(read), b"application/x-npy")
    np.testing.assert_array_equal(np.load(io.BytesIO(b"".join(blobs))), array)


@given(tensors(with_rows=True))
def test_bytes_give_back_what_they_took(tensor: Tensor) -> None:
    model = entry(inputs=(TensorSpec("x", tensor.datatype, (-1, tensor.shape[1])),))
    shape = ",".join(map(str, tensor.shape)).encode()
    _, blobs = write_one(answer_of(tensor), b"application/octet-stream")
    assert_same(read_raw(model, b"".join(blobs), shape), tensor)
    if tensor.datatype != "BYTES":
        assert_same(read_raw(model, b"".join(blobs), None), tensor)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='[]{}"\\a', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[]{}"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(json_values)
def test_depth_is_that_of_the_value_whatever_its_strings_hold(value: Any) -> None:
    def depth(part: Any) -> int:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    assert find_depth(json.dumps(value).encode(), 1000) == depth(value)


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.float32([[1, 2, 3]]))
    return stream.getvalue()


ROW = [1.0, 2.0, 3.0]
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
BINARY = orjson.dumps(
    {"inputs": [{**TENSOR, "parameters": {"binary_data_size": 12}}], "id": "i", "outputs": [{"name": "y"}]}
)
BASE64 = base64.b64encode(np.float32(ROW).tobytes()).decode()
VALID: list[tuple[str, bytes, dict[str, str]]] = [
    ("/v2/models/double/infer", orjson.dumps({"inputs": [{**TENSOR, "data": ROW}]}), {}),
    ("/v2/models/double/infer", BINARY + bytes(12), {"inference-header-content-length": str(len(BINARY))}),
    ("/v2/models/double/infer", bytes(12), {"inference-header-content-length": "0"}),
    ("/v2/models/double/infer", gzip.compress(orjson.dumps({"inputs": []}), mtime=0), {"content-encoding": "gzip"}),
    ("/v1/models/double/infer", orjson.dumps({"inputs": {"x": [ROW]}}), {"accept-encoding": "gzip"}),
    ("/v1/models/double/infer", orjson.dumps({"rows": [{"x": ROW}]}), {"server-timing": "1"}),
    ("/v1/models/double/infer", npy(), {"content-type": "application/x-npy", "accept": "application/x-npy"}),
    ("/v1/models/double/infer", bytes(12), {"content-type": "application/octet-stream", "tensor-shape": "1,3"}),
    ("/v1/models/double:predict", orjson.dumps({"instances": [ROW], "signature_name": ""}), {}),
    ("/v1/models/double:predict", orjson.dumps({"inputs": {"x": {"b64": BASE64}}}), {}),
    ("/predictions/double", orjson.dumps({"data": ROW}), {}),
    (
        "/predictions/double",
        b"--b\r\nContent-Type: application/json\r\n\r\n[1,2,3]\r\n--b--\r\n",
        {"content-type": "multipart/form-data; boundary=b"},
    ),
    ("/v2/repository/index", b'{"ready": true}', {}),
    ("/v2/logging", b'{"log_verbose_level": 0}', {}),
]
CLIENT = Client()


async def statuses(requests: list[tuple[str, bytes, dict[str, str]]]) -> list[tuple[int, str]]:
    """What the application itself answers, without a client library between that would mend a header."""

    async def one(path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        sent: list[Any] = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
            "client": None,
            "server": ("test", 80),
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await CLIENT.app(scope, receive, send)
        kind = dict(sent[0]["headers"])[b"content-type"].decode()
        return sent[0]["status"], kind

    return [await one(*request) for request in requests]


def test_the_requests_that_are_mutated_are_right() -> None:
    answers = asyncio.run(statuses(VALID))
    assert [status for status, _ in answers] == [200, 200, 200, 400, *[200] * 10]


mutations = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.sampled_from(["change", "insert", "cut"])),
    min_size=1,
    max_size=4,
)


@settings(max_examples=400)
@given(st.sampled_from(VALID), mutations, st.none() | st.tuples(st.integers(0, 3), st.text(max_size=12)))
def test_no_mutation_of_a_right_request_is_our_fault(
    request: tuple[str, bytes, dict[str, str]], changes: list[tuple[float, int, str]], header: tuple[int, str] | None
) -> None:
    path, valid, headers = request
    body = bytearray(valid)
    for where, value, how in changes:
        at = int(where * len(body))
        if how == "insert":
            body[at:at] = bytes([value]) * (1 + value % 9)
        elif how == "cut":
            del body[at : at + 1 + value % 9]
        elif body:
            body[at] = value
    if header is not None and headers:
        name = list(headers)[header[0] % len(headers)]
        headers = {**headers, name: header[1]}
    ((status, kind),) = asyncio.run(statuses([(path, bytes(body), headers)]))
    assert status in (200, 400, 404, 413, 501), (status, path, bytes(body), headers)
    assert status == 200 or kind == "application/json"


@given(st.binary(max_size=60), st.sampled_from([path for path, _, _ in VALID]))
def test_no_bytes_at_all_are_our_fault(body: bytes, path: str) -> None:
    ((status, _),) = asyncio.run(statuses([(path, body, {})]))
    assert status < 500 or status == 501


@given(st.text(max_size=20))
def test_any_text_as_json_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ServiceError):
        parse_json(text.encode("utf-8", "surrogatepass"))
