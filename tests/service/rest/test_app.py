"""The HTTP application over a plane with fake engines: every route, every refusal, `{"error": ...}` throughout."""

import io
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from service.errors import Code, ExecutionFailed, QueueFull
from service.rest.errors import STATUS
from tests.service.rest.asking import Client

ROW = [1.0, 2.0, 3.0]
V2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ROW}]}


@pytest.fixture
def client() -> Client:
    return Client()


def test_v1_by_name(client: Client) -> None:
    answer = client.post("/v1/models/double/infer", {"inputs": {"x": [ROW, ROW]}})
    assert answer.status_code == 200
    assert answer.json() == {"model_name": "double", "model_version": "2", "outputs": {"y": [[2, 4, 6], [2, 4, 6]]}}


def test_v1_of_a_version(client: Client) -> None:
    assert client.post("/v1/models/double/versions/1/infer", {"inputs": {"x": [ROW]}}).json()["model_version"] == "1"


@pytest.mark.parametrize(
    "path", ["/v1/models/double/infer", "/v2/models/double/infer", "/v2/models/double/versions/2/infer"]
)
def test_the_v2_body_is_understood_on_both_roads(client: Client, path: str) -> None:
    answer = client.post(path, {**V2, "id": "7"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "model_name": "double",
        "model_version": "2",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2, 4, 6]}],
    }


def test_binary_tensors(client: Client) -> None:
    data = np.array([ROW], np.float32).tobytes()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": len(data)}}
    header = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    answer = client.ask(
        "POST",
        "/v2/models/double/infer",
        content=header + data,
        headers={"Inference-Header-Content-Length": str(len(header))},
    )
    size = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    assert orjson.loads(answer.content[:size])["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert np.frombuffer(answer.content[size:], np.float32).tolist() == [2, 4, 6]


def test_a_raw_binary_body_is_the_only_input(client: Client) -> None:
    data = np.array(ROW, np.float32).tobytes()
    answer = client.ask(
        "POST", "/v2/models/double/infer", content=data, headers={"Inference-Header-Content-Length": "0"}
    )
    assert answer.status_code == 200
    assert answer.content.endswith(np.array([2, 4, 6], np.float32).tobytes())


def picture(file_format: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 20), (200, 100, 50)).save(stream, file_format)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_an_image_body_where_the_model_declares_it(client: Client, kind: str) -> None:
    answer = client.ask(
        "POST", "/v1/models/mean_color/infer", content=picture(kind), headers={"content-type": f"image/{kind}"}
    )
    np.testing.assert_allclose(answer.json()["outputs"]["color"], [[200, 100, 50]], atol=2)


def test_the_largest_classes_with_labels(client: Client) -> None:
    answer = client.ask(
        "POST", "/v1/models/mean_color/infer?top=2", content=picture("png"), headers={"content-type": "image/png"}
    )
    assert answer.json()["outputs"]["color"] == [
        [{"value": 200.0, "index": 0, "label": "red"}, {"value": 100.0, "index": 1, "label": "green"}]
    ]


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/v1/models/doubel/infer", {"inputs": {"x": [ROW]}}, 404, "did you mean 'double'"),
    ("POST", "/v2/models/double/versions/9/infer", V2, 404, "no version '9'"),
    ("POST", "/v1/models/double/infer", {"inputs": {"x": ROW}}, 400, "add the batch dimension"),
    ("POST", "/v1/models/double/infer", {"x": [ROW]}, 400, '{"inputs": {"x": [...]}}'),
    ("POST", "/v1/models/double/infer", {"inputs": {"z": [ROW]}}, 400, "no input 'z'"),
    ("POST", "/v1/models/double/infer?top=many", {"inputs": {"x": [ROW]}}, 400, "top must be a number"),
    ("POST", "/v1/models/slow_start/infer", {"inputs": {"x": [ROW]}}, 503, "compiling: inductor"),
    ("POST", "/v2/models/double/infer", {"inputs": {"x": [ROW]}}, 400, "inputs must be a list"),
    ("GET", "/v2/models/double/infer", None, 405, "use POST"),
    ("DELETE", "/v2/models/double", None, 405, "DELETE is not allowed"),
    ("GET", "/v3/nothing", None, 404, "there is no GET /v3/nothing"),
    ("GET", "/v2/models/nobody", None, 404, "unknown model 'nobody'"),
    ("GET", "/v2/models/slow_start", None, 503, "not ready"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "sentence"), REFUSED)
def test_refusals(client: Client, method: str, path: str, body: Any, status: int, sentence: str) -> None:
    answer = client.ask(method, path, content=b"" if body is None else orjson.dumps(body))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert sentence in answer.json()["error"]
    assert client.engines.asked == []


def test_something_that_is_no_image(client: Client) -> None:
    answer = client.ask("POST", "/v1/models/mean_color/infer", content=b"GIF89a", headers={"content-type": "image/png"})
    assert (answer.status_code, "not a PNG image" in answer.json()["error"]) == (400, True)


def test_an_image_for_a_model_that_takes_none(client: Client) -> None:
    answer = client.ask(
        "POST", "/v1/models/double/infer", content=picture("png"), headers={"content-type": "image/png"}
    )
    assert (answer.status_code, "takes no image files" in answer.json()["error"]) == (400, True)


def test_a_body_over_the_limit_is_refused_and_the_connection_closed(client: Client) -> None:
    answer = client.ask("POST", "/v2/models/double/infer", content=b"x" * 10_001)
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")


def test_a_full_queue_says_when_to_come_back(client: Client) -> None:
    client.engines.error = QueueFull("full")
    answer = client.post("/v2/models/double/infer", V2)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_fault_of_ours_tells_no_inner_detail(client: Client) -> None:
    client.engines.error = RuntimeError("/secret/path")
    answer = client.post("/v2/models/double/infer", V2)
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_a_model_that_fails_is_the_models_fault(client: Client) -> None:
    client.engines.error = ExecutionFailed("model 'double' failed on this input: ValueError: no")
    assert client.post("/v2/models/double/infer", V2).status_code == 500


def test_the_table_of_statuses_knows_every_code() -> None:
    assert set(STATUS) == set(Code)


def test_health(client: Client) -> None:
    assert client.ask("GET", "/v2/health/live").json() == {"live": True}
    waiting = client.ask("GET", "/v2/health/ready")
    assert (waiting.status_code, waiting.json()) == (503, {"ready": False}), "slow_start is still loading"
    assert client.ask("GET", "/v2/models/double/ready").json() == {"name": "double", "ready": True}
    assert client.ask("GET", "/v2/models/slow_start/ready").status_code == 503


def test_metadata_and_configuration(client: Client) -> None:
    assert client.ask("GET", "/v2").json()["name"] == "torchere"
    metadata = client.ask("GET", "/v2/models/double").json()
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert metadata["versions"] == ["1", "2"]
    config = client.ask("GET", "/v2/models/double/config").json()
    assert (config["max_batch_size"], config["input"][0]["dims"], config["input"][0]["data_type"]) == (
        8,
        [3],
        "TYPE_FP32",
    )


def test_the_index_tells_every_state(client: Client) -> None:
    rows = client.post("/v2/repository/index", {}).json()
    assert {"name": "slow_start", "version": "1", "state": "LOADING", "reason": "compiling: inductor"} in rows
    assert all(row["state"] == "READY" for row in client.post("/v2/repository/index", {"ready": True}).json())


def test_models_are_listed_with_what_a_person_asks_first(client: Client) -> None:
    models = {(m["name"], m["version"]): m for m in client.ask("GET", "/v1/models").json()["entries"]}
    assert models["double", "1"]["backend"] == "eager"
    assert client.ask("GET", "/v1/models/mean_color").json()["labels"] == {"color": ["red", "green", "blue"]}


def test_the_openapi_page_shows_each_ready_model_with_an_example_that_works(client: Client) -> None:
    document = client.ask("GET", "/openapi.json").json()
    for path in (
        "/v1/models/double/versions/1/infer",
        "/v2/models/double/versions/1/infer",
        "/v1/models/double/versions/1:predict",
        "/predictions/double/1",
    ):
        operation = document["paths"][path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert client.post(path, example).status_code == 200, path
    assert "/v1/models/slow_start/versions/1/infer" not in document["paths"]
    assert "image/png" in document["paths"]["/v1/models/mean_color/versions/1/infer"]["post"]["requestBody"]["content"]
    assert client.ask("GET", "/docs").status_code == 200


def test_what_cannot_be_translated_is_counted_too(client: Client) -> None:
    client.ask("POST", "/v2/models/double/infer", content=b"{")
    client.post("/v2/models/" + "x" * 300 + "/infer", V2)
    client.post("/v1/models/nobody/infer", V2)
    assert client.counter.ended == [
        ("double", "", "http", "invalid", 0),
        ("", "", "http", "invalid", 0),
        ("", "", "http", "invalid", 0),
    ]
