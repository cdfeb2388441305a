"""Triton's generate extension: what the JSON means, one response or all of them, and how a stream ends."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from compiler.spec import TensorSpec
from service.engine.messages import Infer, Result
from service.rest.events import send_events
from service.tensors import InferRequest, Tensor, pack_bytes, unpack_bytes
from tests.fakes import STORY_ENTRY, FakeStreams, entry
from tests.service.rest.asking import Client

TEXT = entry(
    name="text",
    inputs=(TensorSpec("text_input", "BYTES", (-1, 1)), TensorSpec("top", "INT32", (-1, 1))),
    outputs=(TensorSpec("text_output", "BYTES", (-1, 1)), TensorSpec("scores", "FP32", (-1, 2))),
)


@pytest.fixture
def client() -> Client:
    made = Client(STORY_ENTRY)
    made.engines = FakeStreams()
    made.engines.know(STORY_ENTRY)
    made.plane._engines = made.engines
    return made


def streams(client: Client) -> FakeStreams:
    assert isinstance(client.engines, FakeStreams)
    return client.engines


def events(text: str) -> list[Any]:
    assert text.endswith("\n\n") or not text
    return [json.loads(each.removeprefix("data: ")) for each in text.split("\n\n")[:-1]]


def test_each_response_is_an_event(client: Client) -> None:
    answer = client.post("/v2/models/story/generate_stream", {"count": 3, "id": "mine"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    named = {"model_name": "story", "model_version": "1", "id": "mine"}
    assert events(answer.text) == [{**named, "number": value} for value in range(3)]
    assert client.counter.ended == [("story", "1", "http", "success", 1)]


def test_no_response_at_all_is_an_empty_stream(client: Client) -> None:
    answer = client.post("/v2/models/story/versions/1/generate_stream", {"count": [0]})
    assert (answer.status_code, answer.text) == (200, "")


def test_a_failure_after_the_first_response_is_an_event(client: Client) -> None:
    streams(client).breaks_after = 1
    answer = client.post("/v2/models/story/generate_stream", {"count": 3})
    first, last = events(answer.text)
    assert (answer.status_code, first["number"]) == (200, 0)
    assert last == {"error": "generate.py of model 'story' failed on this input: KeyError: 'x'"}


def test_a_failure_before_the_first_response_has_its_status(client: Client) -> None:
    streams(client).breaks_after = 0
    answer = client.post("/v2/models/story/generate_stream", {"count": 3})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/json")
    for body, status in (({"count": "three"}, 400), ({}, 400), (b"[", 400)):
        assert client.post("/v2/models/story/generate_stream", body).status_code == status, body
    assert client.post("/v2/models/nothing/generate_stream", {}).status_code == 404
    assert client.ask("GET", "/v2/models/story/generate_stream").status_code == 405


def test_generate_answers_with_exactly_one(client: Client) -> None:
    answer = client.post("/v2/models/story/generate", {"count": 1})
    assert answer.json() == {"model_name": "story", "model_version": "1", "number": 0}
    for count, what in ((0, "no response"), (5, "several responses")):
        answer = client.post("/v2/models/story/generate", {"count": count})
        assert answer.status_code == 400
        assert answer.json()["error"] == (
            f"generate answers with exactly one response, model 'story' gave {what}: use generate_stream"
        )
    assert streams(client).given == 1 + 2, "the generation ends when it is clear"


def test_plain_inference_of_such_a_model_is_refused_with_the_remedy(client: Client) -> None:
    tensor = {"name": "count", "datatype": "INT32", "shape": [1], "data": [1]}
    answer = client.post("/v2/models/story/infer", {"inputs": [tensor]})
    assert answer.status_code == 501
    assert "use POST .../generate or .../generate_stream" in answer.json()["error"]


def text_client() -> tuple[Client, list[list[Any]]]:
    """A model of text that is not decoupled, and what it got."""
    client, got = Client(TEXT), []

    async def infer(message: Infer, blobs: Any) -> tuple[Result, list[memoryview]]:
        got.append([unpack_bytes(blobs[0], message.rows), np.frombuffer(blobs[1], np.int32).tolist()])
        words, scores = pack_bytes([b"a", b"b"][: message.rows]), np.ones((message.rows, 2), np.float32).tobytes()
        shapes = ((message.rows, 1), (message.rows, 2))
        result = Result(message.id, shapes, (len(words), len(scores)), (1, 2, 3, 4, 5), 1, 1)
        return result, [memoryview(words), memoryview(scores)]

    client.engines.infer = infer  # type: ignore[method-assign]
    return client, got


def test_it_works_for_any_model_and_writes_several_values_flat() -> None:
    client, got = text_client()
    answer = client.post("/v2/models/text/generate", {"text_input": "hello", "top": 2, "more": True})
    assert answer.json() == {
        "model_name": "text",
        "model_version": "1",
        "text_output": "a",
        "scores": [1.0, 1.0],
    }
    assert got == [[[b"hello"], [2]]]
    answer = client.post("/v2/models/text/generate_stream", {"text_input": [["a"], ["b"]], "top": [[1], [2]]})
    assert [each["text_output"] for each in events(answer.text)] == [["a", "b"]]


def test_inputs_may_stand_among_the_parameters_and_bytes_may_be_base64() -> None:
    client, got = text_client()
    body = {"text_input": {"b64": "/w=="}, "parameters": {"top": 3, "temperature": 0.5, "priority": 1}}
    assert client.post("/v2/models/text/generate", body).status_code == 200
    assert got == [[[b"\xff"], [3]]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"parameters": 1}, "parameters must be a JSON object"),
        (
            {"other": {"a": 1}},
            "'other' is no input of model 'text', which are text_input, top, and a parameter must",
        ),
        ({"id": 5}, "id must be a string"),
        ({"triton_x": 1}, "reserved"),
        ({"timeout": -1}, "parameter 'timeout' must be a whole number"),
    ],
)
def test_what_cannot_be_understood_is_refused(change: dict[str, Any], sentence: str) -> None:
    client, _ = text_client()
    answer = client.post("/v2/models/text/generate", {"text_input": "a", "top": 1, **change})
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]


def test_timing_and_compression_are_those_of_every_infer_route() -> None:
    client, _ = text_client()
    headers = {"Server-Timing": "1", "Accept-Encoding": "gzip"}
    answer = client.post("/v2/models/text/generate", {"text_input": "a", "top": 1}, headers=headers)
    assert "compute;dur=" in answer.headers["server-timing"]
    assert answer.headers["content-encoding"] == "gzip"


def test_a_client_that_leaves_ends_the_stream(client: Client) -> None:
    """As uvicorn tells it: a disconnect while a slow client has yet to take what was sent."""

    async def scenario() -> None:
        leaves, sent = asyncio.Event(), []

        async def receive() -> dict[str, Any]:
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == 3:
                leaves.set()
                await asyncio.Event().wait()  # the client takes no more

        request = story_request()
        assert await send_events(client.plane.stream(request), lambda response: b"{}", receive, send) is None
        assert len(sent) == 3

    asyncio.run(scenario())
    assert streams(client).ended == ["left"]
    assert client.counter.ended[-1][3] == "cancelled"
    assert client.plane.in_flight == 0


def story_request() -> InferRequest:
    return InferRequest("story", "", (Tensor("count", "INT32", (1,), np.array([1000], np.int32).tobytes()),))


def test_the_configuration_says_whether_a_model_is_decoupled(client: Client) -> None:
    def policy(name: str) -> Any:
        return client.ask("GET", f"/v2/models/{name}/config").json()["model_transaction_policy"]

    assert (policy("story"), policy("double")) == ({"decoupled": True}, {"decoupled": False})
    assert "generate" in client.ask("GET", "/v2").json()["extensions"]


def test_the_page_shows_the_ways_that_work(client: Client) -> None:
    paths = client.ask("GET", "/openapi.json").json()["paths"]
    assert "/v2/models/story/versions/1/generate_stream" in paths
    assert "/v1/models/story/versions/1/infer" not in paths
    example = paths["/v2/models/story/versions/1/generate"]["post"]["requestBody"]["content"]["application/json"]
    assert example["example"] == {"count": [0]}
    assert "/v2/models/double/versions/1/generate" in paths
