"""The application of Ray Serve on a cluster of two nodes: it answers, grows with its queue, and outlives a node."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from protos import inference_pb2 as messages
from protos import inference_pb2_grpc
from tests.e2e.collector import Collector
from tests.e2e.ray_running import RAY, ROOT, RayCluster

pytestmark = pytest.mark.skipif(not (RAY / ".installed").exists(), reason="`make ray` fetches Ray")

GROW_S = 60.0
CLIENTS = 6
AFTER_S = 4.0  # of load beyond the loss of the node


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(
    cache: Path, logs: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RayCluster]:
    repository = tmp_path_factory.mktemp("ray")
    for name in ("affine", "patient", "story"):
        shutil.copytree(ROOT / "tests/models" / name, repository / name)
    affine = repository / "affine/model.yaml"
    affine.write_text(affine.read_text().replace("[eager, torchscript]", "[eager]"))
    tracing = ("--tracing", "--trace-endpoint", collector.url, "--trace-ratio", "0")
    with RayCluster(logs) as running:
        running.deploy(repository, cache, *tracing, max_replicas=3, upscale_delay_s=0.5, look_back_period_s=2.0)
        yield running


def vector(name: str, *values: float) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [1, len(values)], "data": list(values)}


def test_http_answers_as_torchere_does(cluster: RayCluster) -> None:
    with httpx.Client(base_url=cluster.http, timeout=30) as client:
        assert client.get("/v2").json()["name"] == "torchere"
        found = client.get("/v2/models/affine").json()
        assert [each["name"] for each in found["inputs"]] == ["x", "y"]
        inputs = [vector("x", 1, 2, 3, 4), vector("y", 10, 20, 30, 40)]
        answer = client.post("/v2/models/affine/infer", json={"id": "7", "inputs": inputs}).json()
        assert answer["id"] == "7"
        assert {each["name"]: each["data"] for each in answer["outputs"]} == {
            "sum": [11, 22, 33, 44],
            "scaled": [2, 4, 6, 8],
        }
        wrong = client.post("/v2/models/affine/infer", json={"inputs": inputs[:1]})
        assert wrong.status_code == 400
        assert "'y'" in wrong.json()["error"]
        assert client.get("/v2/models/nobody").status_code == 404


def test_a_trace_goes_through_ray_to_the_batch(cluster: RayCluster, collector: Collector) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    body = {"inputs": [vector("x", 1, 2, 3, 4), vector("y", 10, 20, 30, 40)]}
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    httpx.post(f"{cluster.http}/v2/models/affine/infer", json=body, headers=headers, timeout=30).raise_for_status()
    spans = collector.wait_for(lambda: collector.of_trace(trace))
    assert {"POST /v2/models/{model}/infer", "queue", "batch", "compute", "encode"} <= spans.keys()
    server, batch = spans["POST /v2/models/{model}/infer"], spans["batch"]
    assert server.parent_span_id.hex() == "00f067aa0ba902b7"
    assert server.start_time_unix_nano < batch.start_time_unix_nano < batch.end_time_unix_nano
    assert batch.end_time_unix_nano < server.end_time_unix_nano


def test_what_cannot_be_had_says_so(cluster: RayCluster) -> None:
    with httpx.Client(base_url=cluster.http, timeout=30) as client:
        extensions = client.get("/v2").json()["extensions"]
        assert {"statistics", "logging", "model_repository", "system_shared_memory"}.isdisjoint(extensions)
        loading = client.post("/v2/repository/models/affine/load", json={})
        region = {"key": "/x", "offset": 0, "byte_size": 64}
        for refused, word in (
            (loading, "torchere deploy ray"),
            (client.post("/v2/systemsharedmemory/region/x/register", json=region), "under Ray Serve"),
            (client.get("/v2/models/stats"), "Ray's metrics"),
        ):
            assert refused.status_code == 501, refused.text
            assert word in refused.json()["error"]


CLIENT = """
import sys
import numpy as np
import tritonclient.grpc as triton

with triton.InferenceServerClient(sys.argv[1]) as client:
    assert client.is_server_ready()
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    inputs = [triton.InferInput(name, [2, 4], "FP32") for name in "xy"]
    for each in inputs:
        each.set_data_from_numpy(values)
    np.testing.assert_array_equal(client.infer("affine", inputs).as_numpy("sum"), 2 * values)
"""


def test_grpc_answers_an_unmodified_client(cluster: RayCluster) -> None:
    """In a process of its own: its messages and ours have the same names."""
    pytest.importorskip("tritonclient", reason="pip install tritonclient[grpc]")
    done = subprocess.run([sys.executable, "-c", CLIENT, cluster.grpc], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_responses_stream_through_both_doors(cluster: RayCluster) -> None:
    request = {"text_input": "a", "max_tokens": 3}
    with httpx.stream("POST", f"{cluster.http}/v2/models/story/generate_stream", json=request, timeout=30) as answer:
        events = [json.loads(line.removeprefix("data:")) for line in answer.iter_lines() if line.startswith("data:")]
    assert "".join(event["text_output"] for event in events) == " qu"
    asked = messages.ModelInferRequest(model_name="story")
    for name, datatype, data in (("text_input", "BYTES", b"\x01\x00\x00\x00a"), ("max_tokens", "INT32", b"\x03\0\0\0")):
        asked.inputs.add(name=name, datatype=datatype, shape=[1])
        asked.raw_input_contents.append(data)
    with grpc.insecure_channel(cluster.grpc) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        found = [
            each.infer_response.raw_output_contents[0] for each in stub.ModelStreamInfer(iter([asked]), timeout=30)
        ]
    assert [text[4:] for text in found] == [b" ", b"q", b"u"]


def ask_patient(client: httpx.Client, number: int) -> str:
    """`200`, or the status and what is wrong."""
    try:
        answer = client.post("/v2/models/patient/infer", json={"inputs": [vector("x", number, 0)]}, timeout=60)
    except httpx.TransportError as error:
        return f"{type(error).__name__}: {error}"
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text}"
    return "200" if answer.json()["outputs"][0]["data"] == [number + 1, 1] else f"wrong: {answer.text}"


def test_it_grows_under_load_and_outlives_a_node(cluster: RayCluster) -> None:
    """Ray does not run what died with a replica again; the ingress does, so no client sees that a node went."""
    seen: Counter[str] = Counter()
    is_over = threading.Event()
    assert len(cluster.nodes("patient")) == 1

    def load(first: int) -> None:
        with httpx.Client(base_url=cluster.http) as client:
            number = first
            while not is_over.is_set():
                seen[ask_patient(client, number)] += 1
                number += CLIENTS

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load, first) for first in range(CLIENTS)]
        try:
            cluster.wait(lambda: len(set(cluster.nodes("patient"))) == 2, GROW_S)
            grown = cluster.nodes("patient")
            cluster.ask("kill")
            before = seen.total()
            time.sleep(AFTER_S)
            cluster.wait(lambda: set(cluster.nodes("patient")) == {cluster.head}, GROW_S)
        finally:
            is_over.set()
        for each in clients:
            each.result()
    assert len(grown) > 1
    assert seen.total() > before + CLIENTS
    assert set(seen) == {"200"}
    assert cluster.is_ready()
