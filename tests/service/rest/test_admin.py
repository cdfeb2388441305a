"""Statistics, shared memory, trace and log settings over HTTP: what comes back, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from service.control import Control
from service.errors import InvalidInput
from service.observe.recorders import RequestRecorder
from service.observe.store import Store
from service.plane import Plane
from service.rest.app import create_app
from service.settings import Settings
from service.statistics import Statistics
from tests.fakes import FakeEngines, ParentInProcess, catalog

ROWS = np.array([[1.0, 2.0, 3.0]], np.float32)
DEFAULT_TRACE = {
    "trace_file": "",
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "triton",
}


class Client:
    """Asks an application whose parent is in this process."""

    def __init__(self, folder: Path) -> None:
        plane = Plane(FakeEngines(), RequestRecorder(Store(folder)))
        plane.catalog = catalog()
        self.parent = ParentInProcess()
        self.control = Control(plane, self.parent.serve(plane), Statistics(folder).ask)
        self._app = create_app(plane, self.control, Settings())

    def switch_on(self, folder: Path) -> None:
        """Let clients load models."""
        self.control.extensions.is_explicit, self.control.extensions.runtime_directory = True, folder

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return await http.request(method, path, content=orjson.dumps(body) if body is not None else b"")

        answer = asyncio.run(send())
        return answer.status_code, answer.json()

    def get(self, path: str) -> Any:
        status, body = self.ask("GET", path)
        assert status == 200, body
        return body

    def post(self, path: str, body: Any = None) -> Any:
        status, answer = self.ask("POST", path, body)
        assert status == 200, answer
        return answer


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


@pytest.fixture
def shared_file() -> Iterator[Path]:
    """64 bytes of shared memory that begin with ROWS."""
    path = Path("/dev/shm") / f"of_a_test-{os.getpid()}"
    path.write_bytes(ROWS.tobytes().ljust(64, b"\0"))
    yield path
    path.unlink()


def test_statistics_count_what_was_asked(client: Client) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ROWS[0].tolist()}]}
    for _ in range(3):
        client.post("/v2/models/double/versions/1/infer", body)
    (found,) = client.get("/v2/models/double/versions/1/stats")["model_stats"]
    assert (found["name"], found["version"], found["inference_stats"]["success"]["count"]) == ("double", "1", 3)
    assert {each["version"] for each in client.get("/v2/models/double/stats")["model_stats"]} == {"1", "2"}
    names = {each["name"] for each in client.get("/v2/models/stats")["model_stats"]}
    assert names == {"double", "mean_color"}, "of what is ready"
    assert client.ask("GET", "/v2/models/duble/stats")[0] == 404
    assert client.ask("GET", "/v2/models/double/versions/9/stats")[0] == 404
    assert "statistics" in client.get("/v2")["extensions"]


def test_a_region_is_registered_used_and_forgotten(client: Client, shared_file: Path) -> None:
    assert client.get("/v2/systemsharedmemory/status") == []
    wanted = {"key": f"/{shared_file.name}", "offset": 0, "byte_size": 64}
    assert client.post("/v2/systemsharedmemory/region/r/register", wanted) == {}
    expected = [{"name": "r", **wanted}]
    assert client.get("/v2/systemsharedmemory/status") == expected
    assert client.get("/v2/systemsharedmemory/region/r/status") == expected
    placed = {"shared_memory_region": "r", "shared_memory_byte_size": 12}
    target = {"shared_memory_region": "r", "shared_memory_byte_size": 12, "shared_memory_offset": 32}
    answer = client.post(
        "/v2/models/double/infer",
        {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": placed}],
            "outputs": [{"name": "y", "parameters": target}],
        },
    )
    assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 3]}]
    assert shared_file.read_bytes()[32:44] == (2 * ROWS).tobytes()
    status, taken = client.ask("POST", "/v2/systemsharedmemory/region/r/register", wanted)
    assert (status, "registered already" in taken["error"]) == (400, True)
    assert client.post("/v2/systemsharedmemory/region/r/unregister") == {}
    assert client.ask("GET", "/v2/systemsharedmemory/region/r/status")[0] == 404
    client.post("/v2/systemsharedmemory/region/a%20b/register", wanted)
    assert client.get("/v2/systemsharedmemory/status")[0]["name"] == "a b"
    assert client.post("/v2/systemsharedmemory/unregister") == {}
    assert client.get("/v2/systemsharedmemory/status") == []


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "key must be"),
        ({"key": "k"}, "byte_size must be a whole number"),
        ({"key": "k", "byte_size": "8"}, "byte_size must be a whole number"),
        ({"key": "k", "byte_size": 8, "offset": 1.0}, "offset must be a whole number"),
        ({"key": "../x", "byte_size": 8}, "the key must be a plain name"),
        ({"key": "not-there-at-all", "byte_size": 8}, "there is no shared memory of that key"),
        ([], "the request must be a JSON object"),
    ],
)
def test_regions_are_checked(client: Client, body: Any, sentence: str) -> None:
    status, answer = client.ask("POST", "/v2/systemsharedmemory/region/r/register", body)
    assert (status, sentence in answer["error"]) == (400, True), answer
    assert "not-there-at-all" not in answer["error"]


def test_cuda_shared_memory_has_no_regions_and_takes_none(client: Client) -> None:
    assert client.get("/v2/cudasharedmemory/status") == []
    assert client.post("/v2/cudasharedmemory/unregister") == {}
    assert client.post("/v2/cudasharedmemory/region/r/unregister") == {}
    body = {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 8}
    status, answer = client.ask("POST", "/v2/cudasharedmemory/region/r/register", body)
    assert (status, "CUDA shared memory is not supported" in answer["error"]) == (501, True)
    assert client.ask("GET", "/v2/cudasharedmemory/region/r/status")[0] == 404
    for wrong in ({}, {"raw_handle": "AAAA"}, {"raw_handle": {"b64": "a-secret"}, "byte_size": 8}):
        status, answer = client.ask("POST", "/v2/cudasharedmemory/region/r/register", wrong)
        assert (status, "raw_handle must be" in answer["error"], "secret" in answer["error"]) == (400, True, False)


def test_trace_settings_are_kept_by_model_and_cleared_by_null(client: Client) -> None:
    assert client.get("/v2/trace/setting") == DEFAULT_TRACE
    changed = client.post("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": "5"})
    assert changed == {**DEFAULT_TRACE, "trace_level": ["TIMESTAMPS"], "trace_rate": "5"}
    client.post("/v2/models/double/trace/setting", {"trace_rate": "7"})
    assert client.get("/v2/models/double/trace/setting")["trace_rate"] == "7"
    assert client.post("/v2/models/double/trace/setting", {"trace_rate": None})["trace_rate"] == "5"
    assert client.get("/v2/models/mean_color/trace/setting")["trace_level"] == ["TIMESTAMPS"]
    assert client.ask("POST", "/v2/trace/setting", {"trace_rate": "often"})[0] == 400
    assert client.ask("GET", "/v2/models/nobody/trace/setting")[0] == 404


def test_log_settings_change_and_the_file_does_not(client: Client) -> None:
    before = client.get("/v2/logging")
    assert before == {
        "log_file": "",
        "log_error": True,
        "log_warning": True,
        "log_info": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }
    assert client.post("/v2/logging", {"log_verbose_level": 1}) == {**before, "log_verbose_level": 1}
    assert client.get("/v2/logging")["log_verbose_level"] == 1
    status, answer = client.ask("POST", "/v2/logging", {"log_file": "/tmp/x"})
    assert (status, "cannot be changed over the network" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/models/stats"),
        ("GET", "/v2/systemsharedmemory/unregister"),
        ("DELETE", "/v2/logging"),
        ("PUT", "/v2/trace/setting"),
    ],
)
def test_wrong_verbs_have_a_body(client: Client, method: str, path: str) -> None:
    status, answer = client.ask(method, path)
    assert (status, "is not allowed" in answer["error"]) == (405, True)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_models_are_loaded_on_a_clients_word_where_that_is_switched_on(client: Client, tmp_path: Path) -> None:
    for call in ("load", "unload"):
        status, answer = client.ask("POST", f"/v2/repository/models/double/{call}", {})
        assert (status, "--model-control-mode explicit" in answer["error"]) == (501, True)
    client.switch_on(tmp_path)
    assert client.post("/v2/repository/models/double/load") == {}
    files = {"config": "{}", "file:1/model.safetensors": base64_of(b"weights"), "file:labels.txt": base64_of(b"a\n")}
    assert client.post("/v2/repository/models/fresh/load", {"parameters": files}) == {}
    assert client.parent.models.uploaded == {"fresh/1/model.safetensors": b"weights", "fresh/labels.txt": b"a\n"}
    assert client.post("/v2/repository/models/double/unload", {"parameters": {"unload_dependents": True}}) == {}
    assert [change.name for change in client.parent.models.asked] == ["double", "fresh", "double"]
    assert "model_repository(unload_dependents)" in client.get("/v2")["extensions"]
    client.parent.models.error = InvalidInput("no backend is left")
    status, answer = client.ask("POST", "/v2/repository/models/double/load", {})
    assert (status, answer["error"]) == (400, "no backend is left")


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"parameters": {"confg": "{}"}}, "parameter 'confg' is unknown"),
        ({"parameters": {"config": {}}}, "parameter 'config' must be text"),
        ({"parameters": {"config": "{"}}, "config must be the JSON of a model configuration"),
        ({"parameters": {"config": '{"sequence_batching": {"oldest": {"x": 1}}}'}}, "'x' of oldest is not supported"),
        ({"parameters": {"config": "{}", "file:1/x": "%%%"}}, "parameter 'file:1/x' must be base64"),
        ({"parameters": {"file:1/x": "eHg="}}, "a load call that brings files needs a config too"),
        ({"parameters": {"config": "{}", "file:../../x": "eHg="}}, "write its path below the model's folder"),
        ({"parameters": []}, None),
        ({"parameter": {}}, "the body must be empty, or have parameters"),
    ],
)
def test_load_calls_are_checked(client: Client, tmp_path: Path, body: Any, sentence: str | None) -> None:
    client.switch_on(tmp_path)
    status, answer = client.ask("POST", "/v2/repository/models/double/load", body)
    assert (status, sentence is None or sentence in answer["error"]) == (400 if sentence else 200, True), answer


def test_an_unknown_model_is_not_unloaded(client: Client, tmp_path: Path) -> None:
    client.switch_on(tmp_path)
    assert client.ask("POST", "/v2/repository/models/duble/unload")[0] == 404
    assert client.ask("POST", "/v2/repository/models/..%2Fx/load")[0] == 404
