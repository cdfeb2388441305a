"""Two frontends in front of one engine: what is counted, registered and set through one holds for both."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos.inference_pb2 import InferTensorContents, ModelInferRequest
from protos.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e.collector import Collector, attributes
from tests.e2e.running import RunningServer

ROOT = Path(__file__).parents[2]
DURATIONS = {
    *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"),
}


class Door:
    """One protocol of a running server, asked through tritonclient in a process of its own."""

    def __init__(self, protocol: str, server: RunningServer) -> None:
        self.protocol = protocol
        self.address = f"127.0.0.1:{server.http_port if protocol == 'http' else server.grpc_port}"

    def do(self, action: str, *arguments: str) -> Any:
        command = [sys.executable, "-m", "tests.e2e.control_clients", self.protocol, self.address, action, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as listening:
        yield listening


@pytest.fixture(scope="module")
def server(cache: Path, logs: Path, collector: Collector) -> Iterator[RunningServer]:
    flags = (
        *("--models", "affine", "--frontends", "2", "--startup", "wait", "--shared-memory", "system"),
        *("--tracing", "--trace-endpoint", collector.url, "--trace-ratio", "0", "--access-log"),
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        environment.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        with RunningServer(ROOT / "tests" / "models", cache, logs, *flags) as running:
            assert len(running.children("service.frontend")) == 2
            yield running


@pytest.fixture(params=["http", "grpc"])
def door(request: pytest.FixtureRequest, server: RunningServer) -> Door:
    return Door(request.param, server)


def counts(stats: dict[str, Any]) -> dict[str, int]:
    return {name: int(duration["count"]) for name, duration in stats["inference_stats"].items()}


def test_statistics_are_the_services_totals_whichever_frontend_is_asked(door: Door) -> None:
    came = door.do("statistics", "affine", "20")
    before = counts(came["before"])
    assert set(before) == DURATIONS
    assert came["models"] == ["affine"]
    for after in came["seen"]:
        grown = {name: count - before[name] for name, count in counts(after).items()}
        assert grown == {
            **dict.fromkeys(DURATIONS - {"fail", "cache_hit", "cache_miss"}, 20),
            **dict.fromkeys(("fail", "cache_hit", "cache_miss"), 0),
        }
        assert int(after["inference_count"]) - int(came["before"]["inference_count"]) == 20
        assert int(after["execution_count"]) - int(came["before"]["execution_count"]) == 20
        assert int(after["version"]) == 1
        batch = {int(each["batch_size"]): int(each["compute_infer"]["count"]) for each in after["batch_stats"]}
        assert sum(batch.values()) == int(after["execution_count"])
        assert all(int(after["inference_stats"][name]["ns"]) > 0 for name in ("success", "queue", "compute_infer"))
    assert int(came["seen"][0]["last_inference"]) > int(came["before"]["last_inference"])


def test_shared_memory_registered_through_one_frontend_serves_through_all(door: Door, server: RunningServer) -> None:
    came = door.do("shared")
    assert came["results"] == [[[0, 5, 10, 15]]] * 12
    assert came["mixture"] == [[0, 4, 8, 12]]
    for status in came["statuses"]:
        (region,) = status if door.protocol == "http" else status["regions"].values()
        assert (region["name"], int(region["offset"]), int(region["byte_size"])) == ("r", 0, 96)
    statuses = ("400", "StatusCode.INVALID_ARGUMENT", "StatusCode.ALREADY_EXISTS")
    assert came["taken"][0] in statuses
    assert "registered already" in came["taken"][1]
    assert came["secret"][0] in statuses
    assert "a-secret-key" not in came["secret"][1] + server.log()
    assert "output 'sum' has 16 bytes" in came["too small"][1]
    for status, sentence in came["gone"]:
        assert status in statuses
        assert "shared memory region 'r' is not registered" in sentence


def test_settings_changed_through_one_frontend_hold_in_all(door: Door, server: RunningServer) -> None:
    came = door.do("settings")
    for trace in came["traces"]:
        settings = trace if door.protocol == "http" else {k: v["value"] for k, v in trace["settings"].items()}
        assert settings["trace_level"] == ["TIMESTAMPS"]
        assert settings["trace_rate"] in ("3", ["3"])
    for log in came["logs"]:
        if door.protocol == "http":
            assert (log["log_verbose_level"], log["log_info"]) == (1, False)
        else:
            assert log["settings"]["log_verbose_level"]["uint32_param"] == 1
    assert "cannot be changed over the network" in came["refused"][1]


def infer(server: RunningServer, protocol: str, trace: int) -> None:
    """One request of a client that is traced; its own span is 7."""
    parent = f"00-{trace:032x}-0000000000000007-01"
    if protocol == "http":
        inputs = [{"name": name, "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 2, 3]} for name in ("x", "y")]
        body = json.dumps({"id": f"of-http\n{trace}", "inputs": inputs}).encode()
        assert server.post("/v2/models/affine/infer", body, traceparent=parent)[0] == 200
        return
    values = InferTensorContents(fp32_contents=[0, 1, 2, 3])
    request = ModelInferRequest(model_name="affine", id=f"of-grpc\n{trace}")
    for name in ("x", "y"):
        request.inputs.add(name=name, datatype="FP32", shape=[1, 4], contents=values)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=(("traceparent", parent),))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("protocol", "trace"), [("http", 0xABC1), ("grpc", 0xABC2)])
def test_a_clients_trace_goes_on_in_the_server(
    protocol: str, trace: int, server: RunningServer, collector: Collector
) -> None:
    infer(server, protocol, trace)
    spans = collector.wait_for(lambda: collector.of_trace(f"{trace:032x}"))
    operation = {"http": "POST /v2/models/{model}/infer", "grpc": "inference.GRPCInferenceService/ModelInfer"}[protocol]
    assert set(spans) == {operation, "queue", "batch", "stack", "copy_in", "compute", "copy_out", "encode"}
    own, batch = spans[operation], spans["batch"]
    assert own.parent_span_id.hex() == f"{7:016x}"
    for name, parent in {"queue": own, "batch": own, "encode": own, "stack": batch, "compute": batch}.items():
        assert spans[name].parent_span_id == parent.span_id, name
        assert own.start_time_unix_nano <= spans[name].start_time_unix_nano <= own.end_time_unix_nano, name
    assert (own.trace_id, own.span_id) in [(link.trace_id, link.span_id) for link in batch.links]
    assert attributes(own)["torchere.request.id"] == f"of-{protocol}\n{trace}"
    assert attributes(own)["torchere.backend"]
    assert attributes(batch)["torchere.batch.rows"] >= 1
    (resource,) = [resource for span, resource in collector.spans if span.span_id == own.span_id]
    assert resource["service.name"] == "torchere"
    assert resource["deployment.environment"] == "test"
    line = next(line for line in server.log().splitlines() if f"trace_id={trace:032x}" in line)
    assert f'request_id="of-{protocol}\\n{trace}"' in line
    assert operation.replace("{model}", "affine") in line


def test_the_requests_of_a_batch_are_linked(server: RunningServer, collector: Collector) -> None:
    def shared() -> Any:
        return [span for span, _ in collector.spans if span.name == "batch" and len(span.links) > 1]

    with ThreadPoolExecutor(16) as pool:
        for first in range(0x100, 0x900, 0x20):
            list(pool.map(lambda trace: infer(server, "http", trace), range(first, first + 32)))
            if shared():
                break
    batch = collector.wait_for(shared)[0]
    linked = {(link.trace_id, link.span_id) for link in batch.links}
    assert len(linked) == len(batch.links)

    def owns() -> set[tuple[bytes, bytes]]:
        return {
            (span.trace_id, span.span_id)
            for span, _ in list(collector.spans)
            if span.parent_span_id.hex() == f"{7:016x}"
        }

    collector.wait_for(lambda: linked <= owns())
    assert server.metric("torchere_traces_total", outcome="exported") > 0


def test_requests_without_a_trace_are_traced_as_the_settings_say(server: RunningServer, collector: Collector) -> None:
    assert "trace" in server.get("/v2")[1]["extensions"]
    assert server.get("/v2/models/affine/trace/setting")[1]["trace_mode"] == "opentelemetry"
    changed = server.post("/v2/models/affine/trace/setting", b'{"trace_rate": "1"}')[1]
    assert changed["trace_rate"] == "1"
    before = len(collector.spans)
    inputs = [{"name": name, "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 2, 3]} for name in ("x", "y")]
    body = json.dumps({"id": "from here", "inputs": inputs}).encode()
    assert server.post("/v2/models/affine/infer", body)[0] == 200
    roots = collector.wait_for(lambda: [span for span, _ in collector.spans[before:] if not span.parent_span_id])
    assert [attributes(root)["torchere.request.id"] for root in roots] == ["from here"]
    assert server.post("/v2/models/affine/trace/setting", b'{"trace_rate": null}')[1]["trace_rate"] != "1"


def test_a_frontend_that_comes_back_knows_the_regions(server: RunningServer) -> None:
    shared = Path("/dev/shm") / f"of_e2e-{os.getpid()}"
    shared.write_bytes(bytes(64))
    try:
        body = json.dumps({"key": shared.name, "offset": 0, "byte_size": 64}).encode()
        assert server.post("/v2/systemsharedmemory/region/kept/register", body)[0] == 200
        server.kill("service.frontend")
        server.wait_for(lambda: server.get("/v2/systemsharedmemory/region/kept/status")[0] == 200, "the region")
        assert server.post("/v2/systemsharedmemory/unregister", b"")[0] == 200
    finally:
        shared.unlink()


def test_what_the_processes_log_follows_the_settings(server: RunningServer) -> None:
    assert server.post("/v2/logging", b'{"log_format": "ISO8601", "log_verbose_level": 1}')[0] == 200
    server.kill("service.engine.worker")
    dated = re.compile(r"^20\d\d-\d\d-\d\dT\S+Z ERROR .*engine \S+ died \(killed by SIGKILL\)", re.MULTILINE)
    server.wait_for(lambda: dated.search(server.log()), "a line with the date in the parent's log")
    server.wait_until_ready()
    assert server.post("/v2/logging", b'{"log_format": "default", "log_verbose_level": 0}')[0] == 200


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_where_shared_memory_is_off(protocol: str, zoo: RunningServer) -> None:
    came = Door(protocol, zoo).do("off")
    assert came["status"] in ([], {"regions": {}})
    assert "--shared-memory system" in came["system"][1]
    assert came["system"][0] in ("501", "StatusCode.UNIMPLEMENTED")
    assert "CUDA shared memory is not supported" in came["cuda"][1]
    assert came["cuda"][0] in ("501", "StatusCode.UNIMPLEMENTED")
