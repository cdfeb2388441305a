"""kserve's InferenceRESTClient (v1 and v2) and InferenceGRPCClient, in an environment of their own: every call."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.foreign.conftest import documented
from tests.e2e.running import RunningServer

PROGRAM = Path(__file__).with_name("kserve_calls.py")
SUM = [[0, 2, 4, 6]]
PREDICTIONS = {"predictions": [{"sum": SUM[0], "scaled": SUM[0]}] * 2}


@pytest.fixture(scope="module")
def came(kserve_python: Path, open_server: RunningServer) -> dict[str, Any]:
    """-P: kserve must not find this project's files in the program's folder."""
    command = [str(kserve_python), "-P", str(PROGRAM), open_server.http, f"127.0.0.1:{open_server.grpc_port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_rest_v1(came: dict[str, Any]) -> None:
    seen = came["v1"]
    assert (seen["live"], seen["models"]) == (True, [True, False])
    assert seen["ready"] == ["UnsupportedProtocol", "Unsupported protocol v1."], "the client itself has no such call"
    assert seen["infer"] == seen["graph"] == PREDICTIONS
    for mistake, sentence, status in (
        ("unknown", "unknown model 'nobody'", "404 Not Found"),
        ("explain", "use :predict", "501 Not Implemented"),
        ("mistake", "model 'affine' has 2 inputs: name each", "400 Bad Request"),
    ):
        kind, message = seen[mistake]
        assert kind == "HTTPStatusError"
        assert sentence in message, "the client found our sentence in the answer"
        assert status in message


def test_rest_v2(came: dict[str, Any]) -> None:
    seen = came["v2"]
    assert (seen["live"], seen["ready"], seen["models"]) == (True, True, [True, False, False])
    assert seen["binary"] == seen["JSON"] == {"id": "42", "sum": SUM}
    assert "inference-header-content-length" in seen["headers"], "the output came as bytes"
    assert "unknown model 'nobody'" in seen["mistake"][1]


def test_grpc(came: dict[str, Any]) -> None:
    seen = came["grpc"]
    assert (seen["live"], seen["ready"], seen["models"], seen["unknown"]) == (True, True, [True, False], False)
    assert seen["binary"] == seen["typed"] == {"id": "42", "sum": SUM}
    assert seen["mistake"][0] == "AioRpcError"
    assert "unknown model 'nobody'" in seen["mistake"][1]


def test_no_public_call_was_left_out(came: dict[str, Any]) -> None:
    assert came["called"] == came["public"]
    assert {name for calls in came["public"].values() for name in calls} - documented("kserve") == set()
