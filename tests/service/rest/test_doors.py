"""The neighbours' doors beside our own: rows and columns, files and forms, labels, and what each client reads back."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compiler.spec import TensorSpec
from tests.fakes import entry
from tests.service.rest.asking import Client

ROW = [1.0, 2.0, 3.0]
TWICE = [2.0, 4.0, 6.0]
OCTETS, NPY = "application/octet-stream", "application/x-npy"
SUM = entry(
    name="sum",
    inputs=(TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "FP32", (-1, 2))),
    outputs=(TensorSpec("sum", "FP32", (-1, 2)), TensorSpec("first", "FP32", (-1,))),
)
STABLE = entry(name="aliased", version="3", aliases=("stable",))


@pytest.fixture
def client() -> Client:
    made = Client(SUM, STABLE)
    made.engines.computes("sum", lambda arrays: [arrays[0] + arrays[1], arrays[0][:, 0]])
    made.engines.computes("aliased", lambda arrays: [2 * arrays[0]])
    return made


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def picture(file_format: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(stream, file_format)
    return stream.getvalue()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


ANSWERED: list[tuple[str, Any, Any]] = [
    ("/v1/models/double:predict", {"instances": [ROW, ROW]}, {"predictions": [TWICE, TWICE]}),
    ("/v1/models/double:predict", {"instances": [{"x": ROW}]}, {"predictions": [TWICE]}),
    ("/v1/models/double:predict", {"inputs": [ROW]}, {"outputs": [TWICE]}),
    ("/v1/models/double:predict", {"inputs": {"x": [ROW]}, "signature_name": "serving_default"}, {"outputs": [TWICE]}),
    ("/v1/models/double/versions/1:predict", {"instances": [ROW]}, {"predictions": [TWICE]}),
    ("/v1/models/aliased/labels/stable:predict", {"instances": [ROW]}, {"predictions": [TWICE]}),
    (
        "/v1/models/sum:predict",
        {"instances": [{"a": [1, 2], "b": [3, 4]}]},
        {"predictions": [{"sum": [4.0, 6.0], "first": 1.0}]},
    ),
    (
        "/v1/models/sum:predict",
        {"inputs": {"a": [[1, 2]], "b": [[3, 4]]}},
        {"outputs": {"sum": [[4.0, 6.0]], "first": [1.0]}},
    ),
    ("/v1/models/double:predict", {"instances": [b64(np.float32(ROW).tobytes())]}, {"predictions": [TWICE]}),
    ("/v1/models/mean_color:predict", {"instances": [b64(picture())]}, {"predictions": [[200.0, 100.0, 50.0]]}),
    ("/predictions/double", ROW, TWICE),
    ("/predictions/double/1", [ROW, ROW], [TWICE, TWICE]),
    ("/predictions/double", {"data": ROW}, TWICE),
    ("/predictions/double", {"instances": [ROW]}, {"predictions": [TWICE]}),
    ("/predictions/sum", {"a": [1, 2], "b": [3, 4]}, {"sum": [4.0, 6.0], "first": 1.0}),
    ("/predictions/mean_color", picture(), {"red": 200.0, "green": 100.0, "blue": 50.0}),
]


@pytest.mark.parametrize(("path", "body", "answer"), ANSWERED)
def test_the_neighbours_requests_get_the_neighbours_answers(client: Client, path: str, body: Any, answer: Any) -> None:
    got = client.post(path, body)
    assert (got.status_code, got.headers["content-type"]) == (200, "application/json"), got.text
    assert got.json() == answer


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"data=%5B1%2C+2%2C+3%5D", TWICE),  # requests.post(url, data={"data": "[1, 2, 3]"})
        (b"body=[1,2,3]", TWICE),
        (b"[1,2,3]", TWICE),  # curl -d says the same of whatever it sends
    ],
)
def test_a_form_of_one_field(client: Client, body: bytes, answer: list[float]) -> None:
    got = client.post("/predictions/double", body, headers={"content-type": "application/x-www-form-urlencoded"})
    assert got.json() == answer


def test_rows_at_our_own_door(client: Client) -> None:
    rows = client.post("/v1/models/sum/infer", {"rows": [{"a": [1, 2], "b": [3, 4]}]}).json()
    assert rows["rows"] == [{"sum": [4.0, 6.0], "first": 1.0}]
    assert client.post("/v1/models/double/infer", {"instances": [ROW]}).json()["predictions"] == [TWICE]
    assert client.post("/v1/models/double/infer", {"inputs": [ROW]}).json()["outputs"] == {"y": [TWICE]}


def test_bytes_in_and_out(client: Client) -> None:
    rows = np.array([ROW, ROW], np.float32)
    answer = client.post("/v1/models/double/infer", rows.tobytes(), headers={"content-type": OCTETS, "accept": OCTETS})
    assert answer.headers["content-type"] == OCTETS
    assert (answer.headers["tensor-datatype"], answer.headers["tensor-shape"]) == ("FP32", "2,3")
    np.testing.assert_array_equal(np.frombuffer(answer.content, np.float32).reshape(2, 3), 2 * rows)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_npy_in_and_out_in_every_layout(client: Client, dtype: str, order: Any) -> None:
    rows = np.array([ROW, ROW], dtype, order=order)
    answer = client.post("/v1/models/double/infer", npy(rows), headers={"content-type": NPY, "accept": NPY})
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), 2 * rows)


def test_one_of_several_outputs_alone(client: Client) -> None:
    body = {"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}
    answer = client.post("/v1/models/sum/infer?output=first", body, headers={"accept": NPY})
    assert np.load(io.BytesIO(answer.content)).tolist() == [1.0]
    refused = client.post("/v1/models/sum/infer", body, headers={"accept": NPY})
    assert (refused.status_code, "?output=NAME" in refused.json()["error"]) == (400, True)


@pytest.mark.parametrize("kind", ["application/json", "application/x-npy"])
def test_a_file_in_a_form(client: Client, kind: str) -> None:
    part = b"[[1, 2, 3]]" if kind == "application/json" else npy(np.float32([ROW]))
    files = {"data": ("x", part, kind)}
    assert client.ask("POST", "/predictions/double", files=files).json() in ([TWICE], TWICE)


def test_a_file_that_is_put_as_curl_does(client: Client) -> None:
    assert client.ask("PUT", "/predictions/mean_color", content=picture("jpeg")).status_code == 200


REFUSED: list[tuple[str, Any, dict[str, str], int, str]] = [
    ("/v1/models/double:predict", {"instances": [ROW], "inputs": [ROW]}, {}, 400, "instances (one entry for each row)"),
    ("/v1/models/double:predict", {"instances": []}, {}, 400, "one row or more, got an empty list"),
    ("/v1/models/double:predict", {"instances": [{"x": ROW}, ROW]}, {}, 400, "send all in one form"),
    ("/v1/models/sum:predict", {"instances": [{"a": [1, 2]}, {"b": [1, 2]}]}, {}, 400, "row 1 has other inputs"),
    ("/v1/models/sum:predict", {"instances": [[1, 2]]}, {}, 400, "has 2 inputs: name each"),
    ("/v1/models/double:predict", {"inputs": [ROW], "signature_name": "other"}, {}, 400, "'serving_default'"),
    ("/v1/models/double:predict", {"instances": [b64(b"abc")]}, {}, 400, "a row takes 12 bytes, a b64 has 3"),
    ("/v1/models/double:predict", {"instances": [{"b64": "?"}]}, {}, 400, "not valid base64"),
    ("/v1/models/mean_color:predict", {"instances": [b64(b"GIF")]}, {}, 400, "neither PNG nor JPEG"),
    ("/v1/models/double:classify", {"examples": []}, {}, 501, "use :predict"),
    ("/v1/models/double/labels/old:predict", {"instances": [ROW]}, {}, 404, "no label 'old'"),
    ("/v1/models/aliased/labels/old:predict", {"instances": [ROW]}, {}, 404, "its labels are stable"),
    ("/predictions/nobody", ROW, {}, 404, "unknown model 'nobody'"),
    ("/predictions/double", {"z": ROW}, {}, 400, "no input 'z'"),
    ("/predictions/double", b"form", {"content-type": "multipart/form-data"}, 400, "needs its boundary"),
    (
        "/predictions/double",
        b"data=[1,2,3]&more=1",
        {"content-type": "application/x-www-form-urlencoded"},
        400,
        "not valid JSON",
    ),
    ("/v1/models/double/infer", b"1234567", {"content-type": OCTETS}, 400, "with 7 bytes"),
    ("/v1/models/sum/infer", b"1234", {"content-type": OCTETS}, 400, "needs a model with one input"),
    ("/v1/models/double/infer", b"x", {"content-type": OCTETS, "tensor-shape": "1,-3"}, 400, "as 1,3,224,224"),
    ("/v1/models/double/infer", b"x", {"content-type": NPY}, 400, "not a .npy file"),
    ("/v1/models/double/infer", npy(np.array([{}])), {"content-type": NPY}, 400, "never unpickled"),
    ("/v1/models/double/infer", npy(np.zeros((1, 3))), {"content-type": NPY}, 400, "got FP64 [1,3]: send the data as"),
    ("/v1/models/double/infer", npy(np.zeros((1, 3), "f4"))[:-1], {"content-type": NPY}, 400, "has 11 bytes of data"),
    ("/v1/models/double/infer", {"rows": [ROW], "inputs": []}, {}, 400, "inputs and rows"),
]


@pytest.mark.parametrize(("path", "body", "headers", "status", "sentence"), REFUSED)
def test_refusals(client: Client, path: str, body: Any, headers: dict[str, str], status: int, sentence: str) -> None:
    answer = client.post(path, body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), answer.text
    assert sentence in answer.json()["error"]
    assert client.engines.asked == []


def test_status_and_metadata_as_the_neighbours_read_them(client: Client) -> None:
    model = client.ask("GET", "/v1/models/double").json()
    assert (model["name"], model["ready"]) == ("double", True), "KServe v1"
    versions = {each["version"]: each["state"] for each in model["model_version_status"]}
    assert versions == {"1": "AVAILABLE", "2": "AVAILABLE"}, "TensorFlow Serving"
    assert client.ask("GET", "/v1/models/aliased/labels/stable").json()["version"] == "3"
    document = client.ask("GET", "/v1/models/double/metadata").json()
    signature = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [each["size"] for each in signature["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "3"]
    assert client.ask("GET", "/v1/models").json()["models"] == ["aliased", "double", "mean_color", "slow_start", "sum"]
    assert client.ask("GET", "/").json()["status"] == "alive"
    assert client.ask("GET", "/models").json()["models"][0]["modelName"] == "aliased"
    assert client.ask("GET", "/ping").json() == {"status": "Unhealthy"}, "slow_start is still loading"


def test_where_the_time_went_for_whoever_asks(client: Client) -> None:
    for path, body in (("/v1/models/double/infer", {"inputs": {"x": [ROW]}}), ("/predictions/double", ROW)):
        timing = client.post(path, body, headers={"server-timing": "1"}).headers["server-timing"]
        names = [part.partition(";")[0] for part in timing.split(", ")]
        phases = ["queue", "stack", "copy_in", "compute", "copy_out", "total"]
        assert names == [*phases, "batch", "bucket", "backend"]
        assert 'backend;desc="eager fp32"' in timing
        assert "server-timing" not in client.post(path, body).headers


@pytest.mark.parametrize(("accepted", "encoding"), [("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate", None)])
def test_answers_are_packed_as_asked(client: Client, accepted: str, encoding: str | None) -> None:
    answer = client.post("/v1/models/double/infer", {"inputs": [ROW]}, headers={"accept-encoding": accepted})
    assert answer.headers.get("content-encoding") == encoding
    assert answer.json()["outputs"] == {"y": [TWICE]}


def test_an_unknown_encoding_is_told_the_known_ones(client: Client) -> None:
    answer = client.post("/v2/models/double/infer", b"x", headers={"content-encoding": "br"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (400, "gzip, deflate")


def test_a_wrong_verb_is_told_the_right_ones(client: Client) -> None:
    for method, path, allowed in (
        ("GET", "/predictions/double", "POST, PUT"),
        ("GET", "/v1/models/double:predict", "POST"),
        ("POST", "/v2/models/double", "GET"),
        ("DELETE", "/v2/logging", "GET, POST"),
    ):
        answer = client.ask(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert answer.json()["error"]


def test_the_limits_of_a_request() -> None:
    client = Client(max_json_depth=8, max_tensors=2, max_json_values=20)
    for body, status, sentence in (
        ({"inputs": {"x": [[[[[[[[1]]]]]]]]}}, 400, "max_json_depth"),
        ({"inputs": [{"name": "x"}] * 3}, 400, "max_tensors"),
        ({"inputs": {"x": [ROW] * 8}}, 413, "max_json_values"),
        ({"inputs": {"x": [ROW], "[[[[[[[[[[": "[[[[[["}}, 400, "no input"),
    ):
        answer = client.post("/v1/models/double/infer", body)
        assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.text
    assert client.post("/v2/logging", b" " * 10_001).status_code == 413
