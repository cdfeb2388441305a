"""A model with state over HTTP: its requests carry their sequence to the engine, and the service tells what it is."""

from __future__ import annotations

import pytest

from compiler.spec import TensorSpec
from service.repository.scheduling import Sequencing, State
from service.tensors import SequencePoint
from tests.fakes import entry
from tests.service.rest.asking import Client

STATEFUL = entry(
    name="total",
    sequencing=Sequencing("direct", idle_timeout_s=2.0, state=(State("h", "after"),)),
    hidden=(TensorSpec("h", "FP32", (-1, 3)),),
)
X = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}


@pytest.fixture
def client() -> Client:
    found = Client(STATEFUL)
    found.engines.computes("total", lambda arrays: [arrays[0]])
    return found


def test_a_request_brings_its_sequence_to_a_model_with_state_and_to_no_other(client: Client) -> None:
    body = {"inputs": [X], "parameters": {"sequence_id": "a", "sequence_start": True}}
    for model in ("total", "double"):
        assert client.post(f"/v2/models/{model}/infer", body).status_code == 200
    beside = {"x": [1, 2, 3], "sequence_id": 7, "sequence_end": True}
    assert client.post("/v2/models/total/generate", beside).status_code == 200
    assert [message.sequence for message in client.engines.asked] == [
        SequencePoint("a", is_start=True),
        None,
        SequencePoint(7, is_end=True),
    ]


def test_the_page_shows_how_a_sequence_begins(client: Client) -> None:
    paths = client.ask("GET", "/openapi.json").json()["paths"]
    (path,) = (path for path in paths if "/total/" in path)
    content = paths[path]["post"]["requestBody"]["content"]["application/json"]
    assert client.post(path, content["example"]).status_code == 200
    assert client.engines.asked[-1].sequence == SequencePoint(1, is_start=True)
    assert content["schema"]["properties"]["parameters"]["required"] == ["sequence_id"]


def test_its_configuration_says_how_sequences_are_batched(client: Client) -> None:
    config = client.ask("GET", "/v2/models/total/config").json()
    assert "dynamic_batching" not in config
    assert config["sequence_batching"]["max_sequence_idle_microseconds"] == 2_000_000
    assert config["sequence_batching"]["direct"] == {"max_queue_delay_microseconds": 0}
    assert [tensor["name"] for tensor in config["input"]] == ["x"]
    assert {"sequence", "sequence(string_id)"} <= set(client.ask("GET", "/v2").json()["extensions"])
