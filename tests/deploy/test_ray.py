"""The manifest for KubeRay: its Serve config is what the program writes, its Pods are what Kubernetes takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.ray_serve.plan import IMPORT_PATH, Wishes, serve_config
from service.repository.storage import scan
from service.settings import PREFIX, Settings, default_text
from tests.deploy.manifests import POLICY, RELEASES, judged
from tests.e2e.ray_running import AS_DEPLOYED

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/ray"
SERVICE, GRPC, NETWORK = yaml.safe_load_all((FOLDER / "rayservice.yaml").read_text())
CONFIG = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
CLUSTER = SERVICE["spec"]["rayClusterConfig"]


def templates() -> dict[str, dict[str, Any]]:
    workers = {group["groupName"]: group["template"] for group in CLUSTER["workerGroupSpecs"]}
    return {"head": CLUSTER["headGroupSpec"]["template"], **workers}


def containers() -> Iterator[dict[str, Any]]:
    for template in templates().values():
        yield from template["spec"]["containers"]


def test_the_config_is_what_the_program_writes() -> None:
    (application,) = CONFIG["applications"]
    settings = Settings.model_validate(application["args"]["settings"])
    wishes = Wishes(cpus=2)  # as the manifest's own words say
    assert "torchere deploy ray --model-repository models --cpus 2" in (FOLDER / "rayservice.yaml").read_text()
    models = [model.config for model in scan(ROOT / "models") if model.config is not None]
    assert serve_config(models, settings, wishes) == CONFIG
    assert application["import_path"] == IMPORT_PATH


def test_what_is_imported_is_there() -> None:
    module, _, name = IMPORT_PATH.partition(":")
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert f"\ndef {name}(args: dict[str, Any])" in text


def test_models_and_cache_are_where_the_config_says() -> None:
    settings = CONFIG["applications"][0]["args"]["settings"]
    for name, template in templates().items():
        mounts = {each["mountPath"]: each for each in template["spec"]["containers"][0]["volumeMounts"]}
        assert mounts[settings["model_repository"]]["readOnly"] is True
        if name != "head":  # where nothing is compiled
            assert settings["cache_dir"] in mounts
        claims = [each.get("persistentVolumeClaim", {}).get("claimName") for each in template["spec"]["volumes"]]
        base = (ROOT / "deploy/kubernetes/base/volumes.yaml").read_text()
        assert all(f"name: {claim}\n" in base for claim in claims if claim)


def test_ports_are_those_of_the_program() -> None:
    named = {port["name"]: port["containerPort"] for each in containers() for port in each.get("ports", ())}
    defaults = {name: int(default_text(f"{name}_port")) for name in ("grpc", "metrics")}
    assert {name: named[name] for name in defaults} == defaults
    assert named["serve"] == CONFIG["http_options"]["port"] == int(default_text("http_port"))
    (port,) = GRPC["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (defaults["grpc"], "grpc")


def test_the_service_finds_the_workers_alone() -> None:
    found = [
        name
        for name, template in templates().items()
        if GRPC["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ]
    assert found == [group["groupName"] for group in CLUSTER["workerGroupSpecs"]]
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_clients_reach_what_is_for_clients_and_nothing_else_of_ray() -> None:
    named = {port["name"] for each in containers() for port in each.get("ports", ())}
    within, *rules = NETWORK["spec"]["ingress"]
    ray_node = NETWORK["spec"]["podSelector"]
    assert ray_node in [{"matchLabels": each["podSelector"]["matchLabels"]} for each in within["from"]]
    assert all(each.get("podSelector", {}).get("matchLabels") for each in within["from"]), "no whole namespace"
    opened = {port["port"] for rule in rules for port in rule["ports"]}
    assert opened == {"serve", "grpc", "metrics"} <= named
    alone = yaml.safe_load((ROOT / "deploy/kubernetes/base/networkpolicy.yaml").read_text())
    assert [rule["from"] for rule in rules] == [rule["from"] for rule in alone["spec"]["ingress"]]


def test_there_is_room_for_every_first_replica() -> None:
    needed = sum(
        each["ray_actor_options"]["num_cpus"]
        * each.get("num_replicas", each.get("autoscaling_config", {}).get("min_replicas", 1))
        for each in CONFIG["applications"][0]["deployments"]
    )
    (group,) = CLUSTER["workerGroupSpecs"]
    (worker, _) = group["template"]["spec"]["containers"]
    assert int(worker["resources"]["limits"]["cpu"]) * group["minReplicas"] >= needed


def test_there_is_time_to_drain() -> None:
    (group,) = CLUSTER["workerGroupSpecs"]
    assert group["template"]["spec"]["terminationGracePeriodSeconds"] > Settings().drain_timeout_s


def test_every_container_is_locked_and_the_programs_variables_are_its_own() -> None:
    for container in containers():
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"readinessProbe", "livenessProbe", "resources"} <= container.keys()
        ours = {each["name"] for each in container.get("env", ()) if each["name"].startswith(PREFIX)}
        assert ours <= {"TORCHERE_METRICS_DIRECTORY"}
    image = (FOLDER / "Dockerfile").read_text()
    assert f"ARG RAY={CLUSTER['rayVersion']}\n" in image


def test_ray_is_set_as_it_was_tried() -> None:
    for template in templates().values():
        variables = {each["name"]: each.get("value") for each in template["spec"]["containers"][0]["env"]}
        assert AS_DEPLOYED.items() <= variables.items()


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@judged
@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_takes_the_pods_and_the_service(tmp_path: Path, release: str) -> None:
    pods = [
        {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], "name": name}}
        for name, template in templates().items()
    ]
    path = tmp_path / "pods.yaml"
    path.write_text(yaml.safe_dump_all([*pods, GRPC, NETWORK]))
    command = [POLICY / "kubernetes-validate", "-k", release, "--strict", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
