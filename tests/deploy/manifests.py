"""The manifests as they are rendered, and who judges them. Not a test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX

ROOT = Path(__file__).parents[2]


FOLDER = ROOT / "deploy/kubernetes"


OVERLAYS = tuple(sorted(path.name for path in (FOLDER / "overlays").iterdir()))


KSERVE = tuple(sorted((FOLDER / "kserve").glob("*.yaml")))


POLICY = ROOT / "build/tools/policy/bin"


RELEASES = ("1.32", "1.37")


kustomize = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders the manifests")


judged = pytest.mark.skipif(not (POLICY / "checkov").exists(), reason="`make tools` fetches what judges manifests")


@cache
def render(overlay: str) -> str:
    command = ["kubectl", "kustomize", FOLDER / "overlays" / overlay]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def objects(overlay: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(render(overlay)))


def pods(overlay: str) -> Iterator[dict[str, Any]]:
    for each in objects(overlay):
        if each["kind"] in ("Deployment", "Job"):
            yield each["spec"]["template"]


def containers(overlay: str) -> Iterator[dict[str, Any]]:
    for pod in pods(overlay):
        yield from pod["spec"]["containers"]


def runtime() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "kserve/clusterservingruntime.yaml").read_text())
    return found


def variables_of(container: dict[str, Any]) -> set[str]:
    return {each["name"] for each in container.get("env", ()) if each["name"].startswith(PREFIX)}
