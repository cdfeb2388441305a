"""perf_analyzer measures the service as it measures Triton: its report has what the server says of itself."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import RunningServer

REQUESTS = 200
WAYS = {
    "http": ("-i", "http"),
    "http, JSON": ("-i", "http", "--input-tensor-format", "json", "--output-tensor-format", "json", "-b", "4"),
    "http, shared memory": ("-i", "http", "--shared-memory", "system"),
    "grpc": ("-i", "grpc", "--grpc-compression-algorithm", "gzip"),
    "grpc, shared memory": ("-i", "grpc", "--shared-memory", "system", "-b", "4"),
    "grpc, a stream": ("-i", "grpc", "--streaming", "--async"),
}
OF_THE_SERVER = ("Server Queue", "Server Compute Input", "Server Compute Infer", "Server Compute Output")


class Analyzer:
    def __init__(self, program: tuple[Path, dict[str, str]], server: RunningServer, folder: Path) -> None:
        self._path, self._environment = program
        self._server, self._report = server, folder / "report.csv"

    def run(self, model: str, *options: str) -> tuple[dict[str, str], str]:
        """The only row of its csv, and what it printed."""
        port = self._server.grpc_port if "grpc" in options else self._server.http_port
        command = [str(self._path), "-m", model, "-u", f"127.0.0.1:{port}", *options]
        command += ["--request-count", str(REQUESTS), "-f", str(self._report)]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (row,) = csv.DictReader(self._report.read_text().splitlines())
        return row, done.stdout


@pytest.fixture
def analyzer(perf_analyzer: tuple[Path, dict[str, str]], open_server: RunningServer, tmp_path: Path) -> Analyzer:
    return Analyzer(perf_analyzer, open_server, tmp_path)


def inferences(server: RunningServer) -> int:
    return int(server.get("/v2/models/affine/stats")[1]["model_stats"][0]["inference_count"])


@pytest.mark.parametrize("way", WAYS)
def test_measures_and_collects_the_servers_numbers(way: str, analyzer: Analyzer, open_server: RunningServer) -> None:
    before = inferences(open_server)
    metrics = ("--collect-metrics", "--metrics-url", f"127.0.0.1:{open_server.metrics_port}/metrics")
    options = (*WAYS[way], "--concurrency-range", "2", "--verbose-csv", *metrics, "--metrics-interval", "100")
    row, printed = analyzer.run("affine", *options)
    rows = REQUESTS * (4 if "-b" in options else 1)
    assert float(row["Inferences/Second"]) > 0
    assert float(row["Avg latency"]) > 0
    assert all(float(row[column]) >= 0 for column in OF_THE_SERVER)
    assert float(row["Server Compute Infer"]) > 0
    assert "Avg GPU Utilization" in row, "its column, empty on a CPU"
    assert "Server Prometheus Metrics" in printed
    assert inferences(open_server) - before >= rows
    assert open_server.get("/v2/systemsharedmemory/status")[1] == [], "it has cleaned up behind itself"


@pytest.mark.parametrize(
    ("model", "inputs", "options"),
    [
        ("total", None, ("-i", "http", "--sequence-length", "5")),
        ("total", None, ("-i", "grpc", "--streaming", "--async", "--sequence-length", "5")),
        ("mood", {"text": ["a good day"]}, ("-i", "grpc")),
        ("story", {"text_input": ["the"], "max_tokens": [5]}, ("-i", "grpc", "--streaming", "--async")),
    ],
    ids=["sequences", "sequences on a stream", "texts", "answers in parts"],
)
def test_measures_models_of_other_kinds(
    model: str, inputs: dict[str, list[Any]] | None, options: tuple[str, ...], analyzer: Analyzer, tmp_path: Path
) -> None:
    if inputs is not None:
        tensors = {name: {"content": content, "shape": [1]} for name, content in inputs.items()}
        (tmp_path / "inputs.json").write_text(json.dumps({"data": [tensors]}))
        options = (*options, "--input-data", str(tmp_path / "inputs.json"))
    row, printed = analyzer.run(model, *options)
    assert float(row["Inferences/Second"]) > 0
    assert float(row["Server Compute Infer"]) > 0
    assert ("Sequence count" in printed) == (model == "total")
    assert ("Response Throughput" in printed) == (model == "story")


def test_measures_as_a_client_of_torchserve(analyzer: Analyzer, tmp_path: Path) -> None:
    image, inputs = tmp_path / "image.json", tmp_path / "inputs.json"
    image.write_text(json.dumps([[[0] * 8] * 8]))
    inputs.write_text(json.dumps({"data": [{"TORCHSERVE_INPUT": [str(image)]}]}))
    row, _ = analyzer.run("digits", "--service-kind", "torchserve", "-i", "http", "--input-data", str(inputs))
    assert float(row["Inferences/Second"]) > 0
