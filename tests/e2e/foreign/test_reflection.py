"""A client that has no protobuf files asks the server for them, as grpcurl does: `buf curl` by reflection."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import RunningServer

INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
ROW = {"datatype": "FP32", "shape": ["1", "4"], "contents": {"fp32_contents": [0, 1, 2, 3]}}
TENSORS = [{"name": "x", **ROW}, {"name": "y", **ROW}]


class Curl:
    def __init__(self, buf: Path, server: RunningServer, folder: Path) -> None:
        self._command = [str(buf), "curl", "--http2-prior-knowledge", "--protocol", "grpc"]
        self._url = f"http://127.0.0.1:{server.grpc_port}"
        self._environment = {**os.environ, "BUF_CACHE_DIR": str(folder)}

    def __call__(self, *arguments: str, method: str = "") -> subprocess.CompletedProcess[str]:
        command = [*self._command, *arguments, f"{self._url}/{method}" if method else self._url]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=60, check=False)

    def ask(self, method: str, **fields: Any) -> dict[str, Any]:
        done = self("-d", json.dumps(fields), method=method)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout or "{}"))


@pytest.fixture
def curl(buf: Path, open_server: RunningServer, tmp_path: Path) -> Curl:
    return Curl(buf, open_server, tmp_path)


def test_lists_every_method(curl: Curl) -> None:
    methods = curl("--list-methods").stdout.split()
    assert {f"{HEALTH}/Check", f"{HEALTH}/Watch", f"{INFERENCE}/ModelStreamInfer"} <= set(methods)
    assert len([each for each in methods if each.startswith(INFERENCE)]) == 20


def test_calls_what_it_found(curl: Curl) -> None:
    assert curl.ask(f"{HEALTH}/Check") == {"status": "SERVING"}
    assert curl.ask(f"{INFERENCE}/ModelMetadata", name="affine")["versions"] == ["1"]
    answer = curl.ask(f"{INFERENCE}/ModelInfer", model_name="affine", id="42", inputs=TENSORS)
    assert (answer["id"], [each["name"] for each in answer["outputs"]]) == ("42", ["sum", "scaled"])


def test_reads_the_sentence_of_an_error(curl: Curl) -> None:
    done = curl("-d", '{"model_name": "nobody"}', method=f"{INFERENCE}/ModelInfer")
    assert done.returncode != 0
    assert json.loads(done.stderr)["code"] == "not_found"
    assert "unknown model 'nobody'" in json.loads(done.stderr)["message"]
