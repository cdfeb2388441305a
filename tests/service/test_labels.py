"""A version's label works wherever its number does, and is answered with the number; another label is not found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from protos import inference_pb2 as messages
from tests.fakes import FakeEngines, catalog, entry
from tests.service.rest.asking import Client
from tests.service.rpc.fakes import real_plane, serving

ROW = [1.0, 2.0, 3.0]
OLD = entry(name="aged", version="1", aliases=("stable",))
NEW = entry(name="aged", version="2", aliases=("canary",))
COMING = entry(name="aged", version="3", aliases=("next",), state=catalog().entry("slow_start").state)

V1 = {"inputs": {"x": [ROW]}}
V2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": ROW}]}
PREDICT = {"instances": [ROW]}
DOORS = [
    ("POST", "/v1/models/aged/versions/{}/infer", V1, "model_version"),
    ("POST", "/v2/models/aged/versions/{}/infer", V2, "model_version"),
    ("POST", "/v1/models/aged/versions/{}:predict", PREDICT, ""),
    ("POST", "/v1/models/aged/labels/{}:predict", PREDICT, ""),
    ("POST", "/predictions/aged/{}", [ROW], ""),
    ("GET", "/v2/models/aged/versions/{}", None, "versions"),
    ("GET", "/v2/models/aged/versions/{}/ready", None, ""),
    ("GET", "/v2/models/aged/versions/{}/config", None, ""),
    ("GET", "/v2/models/aged/versions/{}/stats", None, ""),
    ("GET", "/v1/models/aged/versions/{}", None, "version"),
    ("GET", "/v1/models/aged/labels/{}", None, "version"),
    ("GET", "/v1/models/aged/versions/{}/metadata", None, ""),
    ("GET", "/v1/models/aged/labels/{}/metadata", None, ""),
]


@pytest.fixture(scope="module")
def client() -> Client:
    made = Client(OLD, NEW, COMING)
    made.engines.computes("aged", lambda arrays: [arrays[0]])
    return made


def ask(client: Client, verb: str, path: str, body: Any) -> Any:
    return client.post(path, body) if verb == "POST" else client.ask(verb, path)


@pytest.mark.parametrize(("verb", "path", "body", "field"), DOORS)
def test_http(client: Client, verb: str, path: str, body: Any, field: str) -> None:
    known = ask(client, verb, path.format("stable"), body)
    assert known.status_code == 200, known.text
    if field:
        assert known.json()[field] in ("1", ["1"])
    if verb == "POST":
        assert client.engines.asked[-1].version == "1"
        assert client.counter.ended[-1][:2] == ("aged", "1"), "counted under its number"
    unknown = ask(client, verb, path.format("oldest"), body)
    assert unknown.status_code == 404
    assert "oldest" in unknown.json()["error"]


def test_statistics_are_those_of_the_number(client: Client) -> None:
    found = client.ask("GET", "/v2/models/aged/versions/canary/stats").json()["model_stats"]
    assert [(each["name"], each["version"]) for each in found] == [("aged", "2")]


def test_a_label_of_a_version_that_is_not_ready_is_no_reason_to_answer_with_another(client: Client) -> None:
    answer = client.post("/v1/models/aged/labels/next:predict", PREDICT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def test_without_a_label_the_highest_ready_answers(client: Client) -> None:
    assert client.post("/v1/models/aged/infer", V1).json()["model_version"] == "2"


def infer_request(version: str) -> messages.ModelInferRequest:
    request = messages.ModelInferRequest(model_name="aged", model_version=version)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(np.array([ROW], np.float32).tobytes())
    return request


CALLS: list[tuple[str, Callable[[str], Any], Callable[[Any], str]]] = [
    ("ModelInfer", infer_request, lambda answer: answer.model_version),
    (
        "ModelMetadata",
        lambda version: messages.ModelMetadataRequest(name="aged", version=version),
        lambda answer: answer.versions[0],
    ),
    ("ModelConfig", lambda version: messages.ModelConfigRequest(name="aged", version=version), lambda answer: "1"),
    (
        "ModelStatistics",
        lambda version: messages.ModelStatisticsRequest(name="aged", version=version),
        lambda answer: answer.model_stats[0].version,
    ),
]


@pytest.mark.parametrize(("call", "request_of", "version_of"), CALLS)
def test_grpc(call: str, request_of: Callable[[str], Any], version_of: Callable[[Any], str]) -> None:
    async def scenario() -> None:
        plane = real_plane()
        plane.catalog = catalog(OLD, NEW, COMING)
        engines: FakeEngines = plane._engines  # type: ignore[assignment]
        engines.know(OLD)
        engines.computes("aged", lambda arrays: [arrays[0]])
        async with serving(plane) as (_, stub, _):
            assert version_of(await getattr(stub, call)(request_of("stable"))) == "1"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(stub, call)(request_of("oldest"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert "oldest" in (caught.value.details() or "")

    asyncio.run(scenario())


def test_grpc_says_whether_a_labelled_version_is_ready() -> None:
    async def scenario() -> None:
        plane = real_plane()
        plane.catalog = catalog(OLD, NEW, COMING)
        async with serving(plane) as (_, stub, _):
            ready = {
                label: (await stub.ModelReady(messages.ModelReadyRequest(name="aged", version=label))).ready
                for label in ("stable", "next", "oldest")
            }
            assert ready == {"stable": True, "next": False, "oldest": False}

    asyncio.run(scenario())
