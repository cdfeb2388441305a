"""A hundred mistakes at both doors: the right status, one sentence that helps, and nothing of the server's inside."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
from typing import Any

import grpc
import numpy as np
import pytest

from compiler.spec import TensorSpec
from protos import inference_pb2 as messages
from service.errors import from_inside
from service.plane import Plane
from tests.fakes import FakeCounter, FakeEngines, catalog, entry
from tests.service.rest.asking import Client
from tests.service.rpc.fakes import serving

# A path of the machine, what Python writes of a failure, a key of shared memory, a pickle, an object's address.
INSIDE = re.compile(
    r"(?<![\w.:])/(?!v1|v2|docs|predictions|metrics|\.\.)[a-z]+/|Traceback|File \"|\.py\b|site-packages|/tmp|/dev/shm|"
    r"secret|pickle\.|0x[0-9a-f]{6}|<[a-z_.]+ object|numpy\.|torch\."
)
KEY = "secret_region_key"
TEXTS = entry(name="texts", inputs=(TensorSpec("t", "BYTES", (-1, 2)),))
I2, I1 = "/v2/models/double/infer", "/v1/models/double/infer"
X = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
LENGTH = "inference-header-content-length"


def of(**changes: Any) -> dict[str, Any]:
    """A v2 request whose input is as it should be but for `changes`; None removes a key."""
    return {"inputs": [{key: value for key, value in {**X, **changes}.items() if value is not None}]}


def out(**parameters: Any) -> dict[str, Any]:
    return {"inputs": [X], "outputs": [{"name": "y", "parameters": parameters}]}


def region(**changes: Any) -> dict[str, Any]:
    return of(data=None, parameters={"shared_memory_region": "mine", "shared_memory_byte_size": 12, **changes})


BAD_BODIES: list[Any] = [
    *(b"", b"{", b"null", b"[]", b"3", b"[" * 99, b"\xff\xfe", b'{"inputs": NaN}', b'{"inputs": [1e999]}'),
    *({}, {"inputs": 3}, {"inputs": [3]}, {"inputs": [{}]}, {"inputs": []}, {"inputs": [X, X]}),
    *(of(name=3), of(name=""), of(name="z"), of(name="n" * 300), of(name="/etc/passwd")),
    *(of(datatype="STRING"), of(datatype=None), of(datatype="FP64"), of(datatype="BYTES", data=["a"] * 3)),
    *(of(shape=None), of(shape=[-1, 3]), of(shape=[-1, -3]), of(shape=[1.0, 3]), of(shape=[True, 3])),
    *(of(shape=[3]), of(shape=[]), of(shape=[0, 3], data=[]), of(shape=[513, 3], data=[0] * 1539)),
    *(of(shape=[1, 4]), of(shape=[2**62, 2**62]), of(shape=[1] * 40), of(shape="13"), of(shape=[2**70, 3])),
    *(of(data=None), of(data=[1, 2]), of(data=["1", "2", "3"]), of(data=[[1, 2], [3]]), of(data={"a": 1})),
    *(of(parameters=3), of(parameters={"binary_data_size": -1}), of(parameters={"binary_data_size": "12"})),
    of(data=None, parameters={"binary_data_size": 2**62}),
    *({**of(), "id": 5}, {**of(), "parameters": 5}, {**of(), "parameters": {"triton_x": 1}}),
    *({**of(), "parameters": {"headers": {}}}, {**of(), "parameters": {"timeout": -1}}),
    *({**of(), "parameters": {"timeout": 2**63}}, {**of(), "parameters": {"priority": "high"}}),
    *({**of(), "parameters": {"binary_data_output": "yes"}}, {**of(), "outputs": 3}, {**of(), "outputs": [3]}),
    *({**of(), "outputs": [{"name": "nope"}]}, {**of(), "outputs": [{"name": "y"}] * 2}),
    *(out(classification=-1), out(classification="2"), out(binary_data=1)),
    *(region(), region(shared_memory_byte_size=-1), region(shared_memory_offset=2**63), region(data=[1])),
    of(data=None, parameters={"shared_memory_region": 7}),
]
HTTP: list[tuple[int, str, str, Any, dict[str, str]]] = [
    *[(400, "POST", I2, body, {}) for body in BAD_BODIES],
    *[(400, "POST", I2, of(), {LENGTH: length}) for length in ("-1", "abc", "9" * 40, "99999", "1")],
    (400, "POST", I2, b"x", {"content-encoding": "br"}),
    (400, "POST", I2, b"x", {"content-encoding": "gzip"}),
    (400, "POST", I2, gzip.compress(b"{}", mtime=0)[:-4], {"content-encoding": "gzip"}),
    (413, "POST", I2, gzip.compress(bytes(20_000), mtime=0), {"content-encoding": "gzip"}),
    (413, "POST", I2, b"x" * 10_001, {}),
    (404, "POST", "/v2/models/nobody/infer", of(), {}),
    (404, "POST", "/v2/models/double/versions/9/infer", of(), {}),
    (404, "POST", "/v2/models/double/versions/..%2f..%2fetc/infer", of(), {}),
    (404, "GET", "/v2/models/%00", b"", {}),
    (404, "GET", "/v2/models/a%0d%0aX:1/config", b"", {}),
    (404, "GET", "/v2/models/nobody/stats", b"", {}),
    (404, "GET", "/v2/models/double/versions/-1", b"", {}),
    (503, "POST", "/v2/models/slow_start/infer", of(), {}),
    (405, "GET", I2, b"", {}),
    (405, "PATCH", "/v2", b"", {}),
    (404, "GET", "/v2/", b"", {}),
    (404, "GET", "/etc/passwd", b"", {}),
    (400, "POST", I1, {"x": [1]}, {}),
    (400, "POST", I1, {"inputs": {"x": [[1, 2]]}}, {}),
    (400, "POST", I1, {"rows": []}, {}),
    (400, "POST", I1, b"GIF", {"content-type": "image/png"}),
    (400, "POST", I1, b"\x93NUMPY\x01\x00\x04\x00{}}}", {"content-type": "application/x-npy"}),
    (400, "POST", I1, b"abc", {"content-type": "application/octet-stream"}),
    (400, "POST", I1, b"abc", {"content-type": "multipart/form-data"}),
    (400, "POST", "/v1/models/texts/infer", {"inputs": [{**X, "name": "t", "datatype": "BYTES"}]}, {}),
    (501, "POST", "/v1/models/double:explain", {}, {}),
    (400, "POST", "/v1/models/double:predict", {"instances": [1], "inputs": [1]}, {}),
    (404, "POST", "/v1/models/double/labels/none:predict", {"instances": [1]}, {}),
    (404, "POST", "/predictions/nobody", {}, {}),
    (400, "POST", "/predictions/double", [1], {}),
    (400, "POST", "/v2/logging", {"log_file": "/etc/secret"}, {}),
    (400, "POST", "/v2/trace/setting", {"trace_file": "/etc/secret"}, {}),
    (400, "POST", "/v2/repository/index", {"ready": "x"}, {}),
    (400, "POST", "/v2/repository/index", gzip.compress(b"{}", mtime=0), {"content-encoding": "gzip"}),
    (501, "POST", "/v2/repository/models/double/load", {}, {}),
    (501, "POST", "/v2/systemsharedmemory/region/r/register", {"key": KEY, "offset": 0, "byte_size": 4}, {}),
    (400, "POST", "/v2/systemsharedmemory/region/r/register", {"key": 5, "offset": 0, "byte_size": 4}, {}),
    (404, "GET", "/v2/systemsharedmemory/region/r/status", b"", {}),
]


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(TEXTS)


@pytest.mark.parametrize(("status", "method", "path", "body", "headers"), HTTP)
def test_a_mistake_over_http(
    client: Client, status: int, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.ask(method, path, content=content, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert list(answer.json()) == ["error"]
    check_sentence(answer.json()["error"].replace(path, "", 1))


def check_sentence(sentence: str) -> None:
    assert 10 < len(sentence) < 1000, sentence
    assert "\n" not in sentence, sentence
    shown = sentence.replace("'/etc/passwd'", "").replace("/etc/passwd here", "")  # what the client itself wrote
    assert not INSIDE.search(shown), sentence


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
Input, Output = messages.ModelInferRequest.InferInputTensor, messages.ModelInferRequest.InferRequestedOutputTensor


def ask(*raw: bytes, model: str = "double", version: str = "", **changes: Any) -> messages.ModelInferRequest:
    """A request for one input; `raw` are its bytes, `parameters` those of the request."""
    parameters = changes.pop("parameters", {})
    values = {"name": "x", "datatype": "FP32", "shape": [1, 3], **changes}
    request = messages.ModelInferRequest(
        model_name=model, model_version=version, inputs=[Input(**values)], raw_input_contents=raw
    )
    for key, value in parameters.items():
        kind = "string_param" if isinstance(value, str) else "int64_param"
        setattr(request.parameters[key], kind, value)
    return request


ROW = np.ones(3, np.float32).tobytes()
TYPED = messages.InferTensorContents
RPC: list[tuple[grpc.StatusCode, str, Any]] = [
    *[
        (INVALID, "ModelInfer", request)
        for request in (
            *(ask(), ask(ROW, ROW), ask(ROW[:-1]), ask(b""), ask(ROW, name="z"), ask(ROW, name="n" * 3000)),
            *(ask(ROW, shape=[3]), ask(ROW, shape=[-1, 3]), ask(ROW, shape=[-1, -3]), ask(ROW, shape=[])),
            *(ask(ROW, shape=[0, 3]), ask(ROW, shape=[2**62, 2**62]), ask(ROW, shape=[1] * 5000)),
            *(ask(ROW, datatype="FP64"), ask(ROW, datatype="STRING"), ask(ROW, datatype="")),
            *(ask(datatype="FP16"), ask(datatype="nope"), ask(contents=TYPED(fp32_contents=[1, 2]))),
            *(ask(contents=TYPED(int_contents=[1, 2, 3])), ask(ROW, contents=TYPED(fp32_contents=[1, 2, 3]))),
            *(ask(ROW, parameters={"triton_x": 1}), ask(ROW, parameters={"headers": "x"})),
            *(ask(ROW, parameters={"timeout": -1}), ask(ROW, parameters={"priority": "x" * 5000})),
            ask(b"\x09\0\0\0a", model="texts", name="t", datatype="BYTES", shape=[1, 2]),
            ask(b"\x01\0\0\0a", model="texts", name="t", datatype="BYTES", shape=[1, 2]),
            messages.ModelInferRequest(model_name="double"),
        )
    ],
    (NOT_FOUND, "ModelInfer", ask(ROW, model="nobody")),
    (NOT_FOUND, "ModelInfer", ask(ROW, version="9")),
    (NOT_FOUND, "ModelInfer", ask(ROW, model="../../etc")),
    (grpc.StatusCode.UNAVAILABLE, "ModelInfer", ask(ROW, model="slow_start")),
    (NOT_FOUND, "ModelMetadata", messages.ModelMetadataRequest(name="nobody")),
    (NOT_FOUND, "ModelConfig", messages.ModelConfigRequest(name="double", version="x")),
    (NOT_FOUND, "ModelStatistics", messages.ModelStatisticsRequest(name="nobody")),
    (UNIMPLEMENTED, "RepositoryModelLoad", messages.RepositoryModelLoadRequest(model_name="double")),
    (UNIMPLEMENTED, "RepositoryModelUnload", messages.RepositoryModelUnloadRequest(model_name="double")),
    (NOT_FOUND, "SystemSharedMemoryStatus", messages.SystemSharedMemoryStatusRequest(name="r")),
    (
        UNIMPLEMENTED,
        "SystemSharedMemoryRegister",
        messages.SystemSharedMemoryRegisterRequest(name="r", key=KEY, byte_size=4),
    ),
    (NOT_FOUND, "TraceSetting", messages.TraceSettingRequest(model_name="nobody")),
]


def test_a_mistake_over_grpc() -> None:
    async def statuses() -> list[tuple[grpc.StatusCode, str]]:
        plane = Plane(FakeEngines(), FakeCounter())
        plane.catalog = catalog(TEXTS)
        told = []
        async with serving(plane) as (_, stub, _channel):
            for _, call, request in RPC:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await getattr(stub, call)(request)
                told.append((raised.value.code(), raised.value.details() or ""))
        return told

    for (status, call, request), (got, sentence) in zip(RPC, asyncio.run(statuses()), strict=True):
        assert got is status, (call, sentence)
        check_sentence(sentence[:999].replace(getattr(request, "model_name", "") or "\0", ""))


def test_what_a_model_says_as_it_fails_tells_no_place(client: Client) -> None:
    said = "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/torchere-x/secret/words.txt'"
    client.engines.error = from_inside("failed", f"model 'double' failed on this input: {said}")
    answer = client.post(I2, of())
    client.engines.error = None
    assert answer.status_code == 500
    check_sentence(answer.json()["error"])
    assert "'words.txt'" in answer.json()["error"]


def test_base64_in_a_load_call_is_checked(client: Client) -> None:
    for value in ("?", "A", base64.b64encode(b"x").decode()):
        answer = client.post("/v2/repository/models/double/load", {"parameters": {"file:1/a": value}})
        assert answer.status_code in (400, 501)
        check_sentence(answer.json()["error"])
