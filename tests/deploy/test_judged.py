"""What Kubernetes, operators, KServe and policies say of the manifests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import jsonschema_rs  # schemathesis brings it
import pytest
import yaml

from tests.deploy.manifests import (
    FOLDER,
    KSERVE,
    OVERLAYS,
    POLICY,
    RELEASES,
    ROOT,
    judged,
    kustomize,
    objects,
    render,
)

SDK = ROOT / "build/clients/kserve/bin/python"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every overlay in a file of its name: those who judge take seconds to start, and see all of them at once."""
    folder = tmp_path_factory.mktemp("rendered")
    for overlay in OVERLAYS:
        (folder / f"{overlay}.yaml").write_text(render(overlay))
    return sorted(folder.iterdir())


@kustomize
@judged
@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_takes_every_object(rendered: list[Path], release: str, tmp_path: Path) -> None:
    def judge(*paths: Path) -> subprocess.CompletedProcess[str]:
        command = [POLICY / "kubernetes-validate", "-k", release, "--strict", *paths]
        return subprocess.run(command, capture_output=True, text=True)

    done = judge(*rendered, FOLDER / "fill-models.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text(rendered[-1].read_text().replace("maxUnavailable: 1\n", "maxUnavailabel: 1\n"))
    assert judge(rendered[0], broken).returncode != 0, "it reads the last of them too"


@kustomize
@judged
def test_operators_take_their_resources(rendered: list[Path]) -> None:
    command = [POLICY / "python", ROOT / "tests/deploy/custom_resources.py", *rendered]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[0]) >= 7, "PodMonitor and PrometheusRule of three overlays, one ScaledObject"


@kustomize
@judged
def test_policies_are_kept(rendered: list[Path], tmp_path: Path) -> None:
    for path in (*rendered, KSERVE[0], FOLDER / "fill-models.yaml"):
        shutil.copy(path, tmp_path)
    command = [POLICY / "checkov", "--config-file", FOLDER / ".checkov.yaml", "--framework", "kubernetes"]
    done = subprocess.run(
        [*command, "--directory", tmp_path, "--quiet", "--compact", "--skip-download", "--output", "json"],
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    failed = [f"{each['check_id']} {each['resource']}" for each in found["results"]["failed_checks"]]
    assert failed == []
    assert found["summary"]["passed"] > 100


@pytest.mark.skipif(not SDK.exists(), reason="`make clients` fetches KServe's own models")
def test_kserve_takes_its_resources_and_only_such(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    text = (FOLDER / "kserve/inferenceservice.yaml").read_text()
    text = text.replace("modelFormat:", "modelFormats:").replace("protocolVersion: v2", "protocolVersion: 2")
    broken.write_text(text)
    command = [SDK, ROOT / "tests/deploy/kserve_resources.py", *KSERVE, broken]
    assert subprocess.run(command, capture_output=True, text=True).stdout.splitlines() == [
        f"{len(KSERVE) + 1} checked",
        "unknown key InferenceService.spec.predictor.model.modelFormats",
        "InferenceService.spec.predictor.model.protocolVersion is no str",
    ]


@kustomize
@pytest.mark.skipif("TORCHERE_CRD_SCHEMAS" not in os.environ, reason="needs the schemas of custom resources")
def test_the_schemas_of_custom_resources_take_them() -> None:
    """The folder holds files as `podmonitor_v1.json`, of a public catalogue of them, which are megabytes."""
    documents = [yaml.safe_load(path.read_text()) for path in KSERVE]
    documents += [each for overlay in OVERLAYS for each in objects(overlay)]
    checked = set()
    for each in documents:
        name = f"{each['kind'].lower()}_{each['apiVersion'].rpartition('/')[2]}.json"
        path = Path(os.environ["TORCHERE_CRD_SCHEMAS"]) / name
        if path.exists():
            schema = jsonschema_rs.validator_for(json.loads(path.read_text()))
            assert [fault.message for fault in schema.iter_errors(each)] == []
            checked.add(each["kind"])
    assert {"ClusterServingRuntime", "InferenceService", "PodMonitor", "PrometheusRule", "ScaledObject"} <= checked
