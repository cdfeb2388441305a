"""A real Prometheus scrapes a real service: every panel, variable, rule and autoscaler gets data for what it asks."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from service.client.rpc import RpcClient
from service.observe import metrics
from service.observe.exposition import TEXT_TYPE, expose
from service.observe.families import families
from service.observe.merge import Merged, words_of
from tests.e2e.collector import Collector
from tests.e2e.conftest import ROOT
from tests.e2e.prometheus import DEPLOYED, PROGRAM, Job, RunningPrometheus, filled, judged
from tests.e2e.running import RunningServer

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="`make tools` fetches Prometheus")

KUBERNETES = ROOT / "deploy/kubernetes/components"
DASHBOARDS = [json.loads(path.read_text()) for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))]
POD = {"namespace": "torchere", "pod": "torchere-0", "instance": "torchere-0"}  # as the PodMonitor names it
MACHINE = {"instance": "machine:8002"}
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
ASKS_S = 150.0  # until all is there: some seconds, and on a busy machine the minute of a compilation
PAUSE_S = 0.02  # between two requests of a client


def gpu_metrics() -> bytes:
    """What the sidecar tells where there is a GPU, which there is none here, and sizes that are padded."""
    merged: Merged = {
        each.name: words_of({("0", "GPU-1", "H100"): 70}) for each in metrics.METRICS if "gpu" in each.labels
    }
    merged[metrics.MODEL_MEMORY.name] = words_of({("affine", "1", "cuda:0"): 1 << 30})
    merged[metrics.COVERAGE.name] = words_of({("affine", "1", of): 900_000 for of in ("operators", "parameters")})
    elements = int(1000 * time.monotonic())
    merged[metrics.PADDED.name] = words_of({("affine", "1", kind): elements for kind in ("request", "padding")})
    return expose(families(merged), TEXT_TYPE)


class Exporter(BaseHTTPRequestHandler):
    """Tells the metrics of a GPU."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", TEXT_TYPE)
        self.end_headers()
        self.wfile.write(gpu_metrics())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def exporter() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Exporter)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model that serves as it is, then from TorchScript, and whose answers are kept; and one that fails."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("affine", "poison"):
        shutil.copytree(ROOT / "tests/models" / name, folder / name)
    config = yaml.safe_load((folder / "affine/model.yaml").read_text())
    config |= {"response_cache": True, "compile": {"backends": ["torchscript"]}}
    (folder / "affine/model.yaml").write_text(yaml.safe_dump(config))
    return folder


def over_http(server: RunningServer) -> Callable[[], None]:
    """Asks the same again and again, which is kept, then what is wrong, what comes too late, and what fails."""

    def tensor(name: str, *values: float) -> dict[str, Any]:
        return {"name": name, "datatype": "FP32", "shape": [1, len(values)], "data": values}

    def ask() -> None:
        now, same = tensor("x", *[time.time()] * 4), tensor("y", 1, 2, 3, 4)
        bodies = [
            ("affine", {"inputs": [same | {"name": "x"}, same]}),
            ("affine", {"inputs": [same]}),
            ("affine", {"inputs": [now, same], "parameters": {"timeout": 1}}),
            ("poison", {"inputs": [tensor("x", -1, 1)]}),
        ]
        for model, body in bodies:
            path = f"/v2/models/{model}/infer"
            server.post(path, json.dumps(body).encode(), traceparent=f"00-{TRACE_ID}-{'1' * 16}-01")

    return ask


def over_grpc(server: RunningServer) -> Callable[[], None]:
    """Asks something else each time."""
    client = RpcClient(f"127.0.0.1:{server.grpc_port}")
    generator = np.random.default_rng(0)

    def ask() -> None:
        client.infer("affine", {name: generator.random((3, 4), np.float32) for name in ("x", "y")})

    return ask


@contextmanager
def load(server: RunningServer) -> Iterator[None]:
    """A client of each protocol, at work inside the block."""
    is_over = threading.Event()

    def repeat(ask: Callable[[], None]) -> None:
        while not is_over.wait(PAUSE_S):
            ask()

    clients = [threading.Thread(target=repeat, args=(make(server),)) for make in (over_http, over_grpc)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        is_over.set()
        for client in clients:
            client.join()


@pytest.fixture(scope="module")
def prometheus(repository: Path, tmp_path_factory: pytest.TempPathFactory, logs: Path) -> Iterator[RunningPrometheus]:
    """The service is scraped twice, as if on a machine and as if in a pod, each with a GPU beside it."""
    folder = tmp_path_factory.mktemp("prometheus")
    with Collector() as collector, exporter() as gpus:
        flags = ["--startup", "fallback", "--frontends", "1"]
        flags += ["--tracing", "--trace-endpoint", collector.url, "--trace-ratio", "0"]
        server = RunningServer(repository, folder / "cache", logs, *flags)
        address = f"127.0.0.1:{server.metrics_port}"
        jobs: list[Job] = [
            ("torchere", address, MACHINE),
            ("torchere/torchere", address, POD),
            ("gpus", gpus, MACHINE),
            ("torchere/gpus", gpus, POD),
        ]
        with RunningPrometheus(folder, jobs) as running, server, load(server):
            yield running


def wait_for_data(prometheus: RunningPrometheus, expressions: dict[str, str]) -> None:
    """Every expression gives data within the time; Refused where one is wrong."""
    deadline = time.monotonic() + ASKS_S
    missing = expressions
    while missing := {name: expr for name, expr in missing.items() if not prometheus.has_data(expr)}:
        assert time.monotonic() < deadline, "no data: " + "\n".join(f"{name}: {expr}" for name, expr in missing.items())
        time.sleep(0.25)


def variables(place: dict[str, str]) -> dict[str, str]:
    return {
        "namespace": place.get("namespace", ".*"),  # All, where there are none
        "instance": place["instance"],
        "model": "affine",
        "version": ".*",
        "gpu": ".*",
        "__rate_interval": "10s",
    }


@pytest.mark.parametrize("place", [MACHINE, POD], ids=["machine", "pod"])
def test_every_panel_has_data(prometheus: RunningPrometheus, place: dict[str, str]) -> None:
    expressions = {
        f"{dashboard['title']}: {panel['id']} {panel['title']} {target['refId']}": filled(
            target["expr"], variables(place)
        )
        for dashboard in DASHBOARDS
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }
    assert len(expressions) > 90
    wait_for_data(prometheus, expressions)


def test_every_variable_has_values_and_every_annotation_is_understood(prometheus: RunningPrometheus) -> None:
    seen: dict[str, list[str]] = {}
    for dashboard in DASHBOARDS:
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                query = filled(variable["query"]["query"], variables(POD))
                seen[variable["name"]] = prometheus.values(query)
        for annotation in dashboard["annotations"]["list"]:
            if "expr" in annotation:
                prometheus.has_data(filled(annotation["expr"], variables(POD)))
    assert seen.pop("instance") == [POD["instance"]], "chosen by the namespace"
    assert seen == {"namespace": ["torchere"], "model": ["affine", "poison"], "version": ["1"], "gpu": ["0"]}


def test_every_rule_is_judged_and_sees_what_it_names(prometheus: RunningPrometheus) -> None:
    rules = [
        rule for group in yaml.safe_load((DEPLOYED / "rules.yaml").read_text())["groups"] for rule in group["rules"]
    ]
    expressions = {rule["record"]: rule["record"] for rule in rules if "record" in rule}
    expressions |= {rule["alert"]: judged(rule["expr"]) for rule in rules if "alert" in rule}
    wait_for_data(prometheus, expressions)
    told: list[dict[str, Any]] = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in told if rule["health"] != "ok"] == []
    assert {rule["name"] for rule in told} == expressions.keys()
    firing = {rule["name"] for rule in told if rule.get("state") == "firing"}
    assert not firing & {"TorchereNoMetrics", "TorchereTargetDown", "TorchereCacheFull", "TorchereProcessRestarted"}


def test_the_load_ends_in_every_way_but_one(prometheus: RunningPrometheus) -> None:
    """What cannot be done in time is refused at once where that is foreseen, and else when its time is over."""
    outcomes = {"success", "invalid", "failed", "timeout|rejected"}
    each = 'torchere_requests_total{{namespace="torchere",outcome=~"{}"}}'
    wait_for_data(prometheus, {outcome: each.format(outcome) for outcome in outcomes})
    found = set(prometheus.values('label_values(torchere_requests_total{namespace="torchere"}, outcome)'))
    assert "cancelled" not in found, "nobody leaves"


def test_the_autoscalers_get_their_numbers(prometheus: RunningPrometheus) -> None:
    expressions = {}
    for rule in yaml.safe_load((KUBERNETES / "hpa/prometheus-adapter.yaml").read_text())["rules"]["custom"]:
        name = rule["name"]["as"]
        assert prometheus.ask("series", **{"match[]": rule["seriesQuery"]}), name
        query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="torchere",pod=~"torchere-0"')
        expressions[name] = query.replace("<<.GroupBy>>", "pod").replace("<<.Series>>", name)
    scaled = yaml.safe_load((KUBERNETES / "keda/scaledobject.yaml").read_text())
    expressions["keda"] = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert len(expressions) == 3
    wait_for_data(prometheus, expressions)


def test_latencies_are_shown_with_examples_of_their_traces(prometheus: RunningPrometheus) -> None:
    def traces() -> set[str]:
        now = time.time()
        expr = 'torchere_request_seconds_bucket{namespace="torchere"}'
        found = prometheus.ask("query_exemplars", query=expr, start=str(now - 600), end=str(now + 1))
        return {example["labels"]["trace_id"] for series in found for example in series["exemplars"]}

    wait_for_data(prometheus, {"latency": 'torchere_request_seconds_count{namespace="torchere"}'})
    assert traces() == {TRACE_ID}
