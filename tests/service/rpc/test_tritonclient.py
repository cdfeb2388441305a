"""An unmodified tritonclient talks to the server as it does to any other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.service.rpc.fakes import ThreadedServer, real_plane

DOUBLED = [[2.0, 5.0, -6.0], [8.0, 10.0, 12.0]]


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    script = Path(__file__).with_name("triton_calls.py")
    with ThreadedServer(real_plane) as server:
        done = subprocess.run(
            [sys.executable, str(script), server.url], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_health_and_readiness(facts: dict[str, Any]) -> None:
    assert facts["live"] is True
    assert facts["ready"] is False, "slow_start still loads"
    assert facts["models"] == [True, False, False]


def test_metadata_and_configuration(facts: dict[str, Any]) -> None:
    assert facts["server"]["name"] == "torchere"
    assert facts["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3"]}]
    assert facts["metadata"]["versions"] == ["1", "2"]
    assert facts["config"]["max_batch_size"] == 8
    assert facts["config"]["input"][0]["data_type"] == "TYPE_FP32"
    assert facts["config"]["input"][0]["dims"] == ["3"]
    assert "dynamic_batching" in facts["config"]
    assert ["slow_start", "LOADING"] in facts["index"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("FP32", DOUBLED),
        ("INT64", [[-1, 2, -(2**40)]]),
        ("FP16", [[0.5, 1.5, -2.5]]),
        ("labels", [["2.500000:1:dog", "1.000000:0:cat"], ["6.000000:2:fish", "5.000000:1:dog"]]),
        ("compressed", DOUBLED),
        ("options", DOUBLED),
        ("answer", ["my-id", "double", "2"]),
    ],
)
def test_inference(facts: dict[str, Any], kind: str, expected: object) -> None:
    assert facts[kind] == expected


def test_the_stream_goes_on_after_an_error(facts: dict[str, Any]) -> None:
    first, second, third = facts["stream"]
    assert first == third == DOUBLED
    assert "unknown model 'nobody'" in second


@pytest.mark.parametrize(
    ("case", "status", "words"),
    [
        ("unknown", "NOT_FOUND", "did you mean 'double'?"),
        ("version", "NOT_FOUND", "its versions are 1, 2"),
        ("datatype", "INVALID_ARGUMENT", "send the data as FP32"),
        ("shape", "INVALID_ARGUMENT", "dimension 1 must be 3"),
        ("batch", "INVALID_ARGUMENT", "larger than max_request_rows 512"),
        ("name", "INVALID_ARGUMENT", "no input 'z'"),
        ("output", "INVALID_ARGUMENT", "no output 'nothing'"),
        ("not ready", "UNAVAILABLE", "compiling: inductor"),
        ("load", "UNIMPLEMENTED", "--model-control-mode explicit"),
        ("shared memory", "UNIMPLEMENTED", "--shared-memory system"),
        ("CUDA shared memory", "UNIMPLEMENTED", "CUDA shared memory is not supported"),
    ],
)
def test_errors_have_the_right_status_and_say_how_to_mend(
    facts: dict[str, Any], case: str, status: str, words: str
) -> None:
    got_status, message = facts["errors"][case]
    assert got_status == f"StatusCode.{status}"
    assert words in message
