"""The manifests fit the program: its command line, settings, ports, probes and times."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from service.cli import main
from service.farewell import LEAVE_MARGIN_S
from service.observe.sidecar import main as sidecar
from service.settings import Settings, default_text, variable
from tests.deploy.manifests import (
    FOLDER,
    OVERLAYS,
    POLICY,
    RELEASES,
    ROOT,
    containers,
    kustomize,
    objects,
    pods,
    runtime,
    variables_of,
)

POD_GRACE_S = 30  # what Kubernetes gives a Pod to end that asks for nothing


@kustomize
def test_traces_may_leave_where_they_are_wanted(tmp_path: Path) -> None:
    parts = [os.path.relpath(FOLDER / part, tmp_path.resolve()) for part in ("overlays/cpu", "components/tracing")]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": parts[:1], "components": parts[1:]}))
    done = subprocess.run(["kubectl", "kustomize", tmp_path], check=True, capture_output=True, text=True)
    path = tmp_path / "rendered.yaml"
    path.write_text(done.stdout)
    found = list(yaml.safe_load_all(done.stdout))
    (server,) = [
        each
        for document in found
        if document["kind"] == "Deployment"
        for each in document["spec"]["template"]["spec"]["containers"]
        if each["name"] == "torchere"
    ]
    environment = {each["name"]: each.get("value") for each in server["env"]}
    assert {"TORCHERE_MODEL_REPOSITORY", "TORCHERE_TRACING", "OTEL_RESOURCE_ATTRIBUTES"} <= environment.keys()
    assert variables_of(server) <= set(map(variable, Settings.model_fields))
    (policy,) = [document for document in found if document["kind"] == "NetworkPolicy"]
    port = environment["OTEL_EXPORTER_OTLP_ENDPOINT"].rpartition(":")[2]
    open_ports = [each["port"] for rule in policy["spec"]["egress"] for each in rule["ports"]]
    assert open_ports == [int(port), 53, 53], "and the names of the cluster"
    if (POLICY / "kubernetes-validate").exists():
        command = [POLICY / "kubernetes-validate", "-k", RELEASES[-1], "--strict", path]
        assert subprocess.run(command, capture_output=True).returncode == 0


@kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_are_started_as_the_program_wants(overlay: str) -> None:
    for container in containers(overlay):
        assert variables_of(container) <= set(map(variable, Settings.model_fields))
        match container.get("command"):
            case None:
                assert container["args"][0] in main.commands
            case ["python", "-m", "service.observe.sidecar"]:
                flags = [word for word in container["args"] if word.startswith("--")]
                known = [name for parameter in sidecar.params for name in parameter.opts]
                assert set(flags) <= set(known)
            case other:
                pytest.fail(f"unknown command {other}")


@kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_container_publishes_what_the_other_counts(overlay: str) -> None:
    (pod,) = [pod for pod in pods(overlay) if len(pod["spec"]["containers"]) == 2]
    server, publisher = pod["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in server["env"]}
    assert environment["TORCHERE_METRICS_SIDECAR"] == "no", "both would bind the port of the Pod"
    directory = publisher["args"][publisher["args"].index("--directory") + 1]
    assert environment["TORCHERE_METRICS_DIRECTORY"] == directory
    for container in (server, publisher):
        assert ("metrics", directory) in [(each["name"], each["mountPath"]) for each in container["volumeMounts"]]


def test_the_runtime_of_kserve_is_started_as_the_program_wants() -> None:
    (container,) = runtime()["spec"]["containers"]
    assert variables_of(container) <= set(map(variable, Settings.model_fields))
    command, *flags = container["args"]
    result = CliRunner().invoke(main, [command, *flags, "--help"])
    assert result.exit_code == 0, result.output
    known = [
        name for parameter in main.commands[command].params for name in (*parameter.opts, *parameter.secondary_opts)
    ]
    assert {flag.partition("=")[0] for flag in flags} <= set(known)


def test_the_runtime_of_kserve_has_time_to_drain() -> None:
    (container,) = runtime()["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    delay_s, drain_s = (float(environment[f"TORCHERE_DRAIN_{what}_S"]) for what in ("DELAY", "TIMEOUT"))
    assert delay_s >= 5, "endpoints forget a Pod some seconds after it is not ready any more"
    assert delay_s + drain_s + LEAVE_MARGIN_S < POD_GRACE_S


@kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_and_probes_are_those_of_the_program(overlay: str) -> None:
    named = {port["name"]: port["containerPort"] for each in containers(overlay) for port in each.get("ports", ())}
    defaults = {name: int(default_text(f"{name}_port")) for name in ("http", "grpc", "metrics")}
    assert named == defaults
    for each in objects(overlay):
        if each["kind"] == "Service":
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= set(named)
        if each["kind"] == "PodMonitor":
            assert {end["port"] for end in each["spec"]["podMetricsEndpoints"]} <= set(named)
        if each["kind"] == "NetworkPolicy":
            assert {port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]} <= set(named)


@kustomize
def test_the_sidecar_is_asked_whether_it_lives() -> None:
    (sidecar,) = [each for each in containers("cpu") if each["name"] == "metrics"]
    for probe in ("readinessProbe", "livenessProbe"):
        assert sidecar[probe]["httpGet"] == {"path": "/live", "port": "metrics"}
    assert '"/live"' in (ROOT / "service/observe/metrics_server.py").read_text()


def test_the_probes_ask_what_is_there() -> None:
    text = (FOLDER / "base/deployment.yaml").read_text() + (FOLDER / "kserve/clusterservingruntime.yaml").read_text()
    asked = set(re.findall(r"path: (/v2/health/\w+)", text))
    source = (ROOT / "service/rest/v2.py").read_text()
    assert asked == {"/v2/health/live", "/v2/health/ready"}
    assert all(f'"{path.removeprefix("/v2")}"' in source for path in asked)


@kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_their_pods(overlay: str) -> None:
    labels = [pod["metadata"]["labels"] for pod in pods(overlay)]

    def matches(selector: dict[str, str]) -> int:
        return sum(selector.items() <= each.items() for each in labels)

    for each in objects(overlay):
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            assert matches(spec["selector"]) == 1
        elif each["kind"] in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
            assert matches(spec["selector"]["matchLabels"]) == 1
        elif each["kind"] == "NetworkPolicy":
            assert matches(spec["podSelector"]["matchLabels"]) == len(labels)
    names = {(each["kind"], each["metadata"]["name"]) for each in objects(overlay)}
    for pod in pods(overlay):
        assert ("ServiceAccount", pod["spec"]["serviceAccountName"]) in names
        claims = [each.get("persistentVolumeClaim") for each in pod["spec"]["volumes"]]
        assert all(("PersistentVolumeClaim", claim["claimName"]) in names for claim in claims if claim)


@kustomize
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_there_is_time_to_drain_and_room_to_leave(overlay: str) -> None:
    by_kind = {each["kind"]: each for each in objects(overlay)}
    deployment = by_kind["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    (server,) = [each for each in pod["containers"] if each["name"] == "torchere"]
    environment = {each["name"]: each["value"] for each in server["env"]}
    drain_s = float(environment.get("TORCHERE_DRAIN_TIMEOUT_S", Settings().drain_timeout_s))
    delay_s = float(environment.get("TORCHERE_DRAIN_DELAY_S", Settings().drain_delay_s))
    assert delay_s >= 5, "endpoints forget a Pod some seconds after it is not ready any more"
    (sidecar,) = [each for each in pod["containers"] if each["name"] == "metrics"]
    lingers_s = float(sidecar["args"][sidecar["args"].index("--linger") + 1])
    assert delay_s + drain_s + LEAVE_MARGIN_S < lingers_s < pod["terminationGracePeriodSeconds"]
    pause, pause_s = server["lifecycle"]["preStop"]["exec"]["command"]
    assert pause == "sleep"
    assert pod["terminationGracePeriodSeconds"] > float(pause_s) + delay_s + drain_s + 2 * LEAVE_MARGIN_S
    replicas = deployment.get("replicas")
    scaler = by_kind.get("HorizontalPodAutoscaler") or by_kind.get("ScaledObject")
    if scaler is not None:
        assert replicas is None, "the autoscaler owns the number"
        replicas = scaler["spec"].get("minReplicas") or scaler["spec"]["minReplicaCount"]
    assert by_kind["PodDisruptionBudget"]["spec"]["maxUnavailable"] < replicas


@kustomize
def test_a_gpu_for_each_replica_and_for_the_job() -> None:
    for overlay in ("gpu", "autoscaled-gpu"):
        limits = [
            each["resources"]["limits"] for each in containers(overlay) if each["name"] in ("torchere", "compile")
        ]
        assert [limit.get("nvidia.com/gpu") for limit in limits] == ["1", "1"]
        assert {each["image"].rpartition(":")[2].partition("-")[0] for each in containers(overlay)} == {"gpu"}


@kustomize
@pytest.mark.parametrize("overlay", ["autoscaled", "autoscaled-gpu", "keda"])
def test_dashboards_and_alerts_come_with_monitoring(overlay: str) -> None:
    found = [each for each in objects(overlay) if each["kind"] == "ConfigMap"]
    assert all(each["metadata"]["labels"]["grafana_dashboard"] == "1" for each in found), (
        "Grafana's sidecar looks for it"
    )
    brought = {name: json.loads(text) for each in found for name, text in each["data"].items()}
    files = [json.loads(path.read_text()) for path in (ROOT / "deploy/grafana/dashboards").glob("*.json")]
    assert brought == {f"{dashboard['uid']}.json": dashboard for dashboard in files}
    (rule,) = [each for each in objects(overlay) if each["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())


@kustomize
@pytest.mark.parametrize("overlay", ["autoscaled", "autoscaled-gpu"])
def test_the_autoscaler_asks_for_what_the_adapter_gives(overlay: str) -> None:
    rules = yaml.safe_load((FOLDER / "components/hpa/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    given = {rule["name"]["as"] for rule in rules}
    (scaler,) = [each for each in objects(overlay) if each["kind"] == "HorizontalPodAutoscaler"]
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]}
    assert asked <= given
    assert len(asked) == (2 if overlay.endswith("gpu") else 1)
