"""The image, without an engine to build it: its words are right, they fit the program, and its steps run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.container.lock import EXTRAS
from service.cli import main
from service.settings import PREFIX, Settings, default_text, variable
from tests.e2e.running import free_ports

ROOT = Path(__file__).parents[2]
LOCKS = {name: ROOT / f"deploy/container/requirements-{name}.txt" for name in ("cpu", "gpu")}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments)."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def pins(name: str) -> dict[str, str]:
    lines = [line for line in LOCKS[name].read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_fits_the_program() -> None:
    words = instructions()
    ports = {default_text(name) for name in ("http_port", "grpc_port", "metrics_port")}
    for target in (rest for word, rest in words if word == "EXPOSE"):
        assert set(target.split()) == ports
    for environment in (rest for word, rest in words if word == "ENV"):
        for name in re.findall(rf"{PREFIX}\w+", environment):
            assert name in map(variable, Settings.model_fields)
    probes = [rest for word, rest in words if word == "HEALTHCHECK"]
    assert len(probes) == 2
    assert all('CMD ["torchere", "health"]' in probe for probe in probes)
    assert {"health", "serve"} <= set(main.commands)
    assert {rest for word, rest in words if word == "STOPSIGNAL"} == {"SIGTERM"}
    assert {rest for word, rest in words if word == "USER"} == {"1000:1000"}, "a number: Kubernetes checks runAsNonRoot"


def test_all_that_is_copied_is_there_and_sent() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(source == each or source.startswith(f"{each}/") for each in sent), source


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_holds_what_the_project_asks_for(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = pins(name)
    extras = (*EXTRAS[name], "tensorrt") if name == "gpu" else EXTRAS[name]
    wanted = project["dependencies"] + [each for extra in extras for each in project["optional-dependencies"][extra]]
    for each in map(Requirement, wanted):
        version = locked.get(canonicalize_name(each.name))
        assert version is not None, f"{each}: run `make lock`"
        assert each.specifier.contains(version), f"{each}: run `make lock`"


def test_what_compose_sets_is_known() -> None:
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    service = compose["services"]["torchere"]
    assert set(service["environment"]) <= set(map(variable, Settings.model_fields))
    assert service["build"]["target"].endswith("cpu}")
    grace_s = int(service["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings().drain_timeout_s
    for each in compose["services"].values():
        for mount in each["volumes"]:
            source = mount.partition(":")[0]
            if source.startswith("./"):
                assert (ROOT / "deploy" / source).exists(), source


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh virtual environment, made by the very script that the Dockerfile runs."""
    folder = tmp_path_factory.mktemp("image")
    source = folder / "source"
    for part in ("pyproject.toml", "README.md", "LICENSE", "protos", "compiler", "service", "deploy/container"):
        target = source / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, target)
    command = [
        source / "deploy/container/install.sh",
        folder / "venv",
        source / "deploy/container/requirements-cpu.txt",
    ]
    subprocess.run([*command, "--quiet"], check=True, cwd=source, env={**os.environ, "PYTHON": sys.executable})
    yield folder / "venv"
    shutil.rmtree(folder)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_the_steps_of_the_image_give_a_server_that_serves(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests/models/affine", tmp_path / "models/affine")
    (tmp_path / "home").mkdir()
    http, grpc, metrics = free_ports(3)
    environment = {
        "PATH": f"{installed / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "TORCHERE_MODEL_REPOSITORY": str(tmp_path / "models"),
        "TORCHERE_CACHE_DIR": str(tmp_path / "cache"),
        "TORCHERE_LOG_FORMAT": "json",
        "TORCHERE_TRUST": "yes",
        "TORCHERE_HTTP_PORT": str(http),
        "TORCHERE_GRPC_PORT": str(grpc),
        "TORCHERE_METRICS_PORT": str(metrics),
    }
    server = subprocess.Popen(["torchere", "serve"], cwd=tmp_path / "home", env=environment)
    try:
        for _ in range(600):
            probe = subprocess.run(["torchere", "health"], env=environment, cwd=tmp_path, capture_output=True)
            if probe.returncode == 0:
                break
        assert probe.returncode == 0, probe.stderr
        url = f"http://127.0.0.1:{http}/v1/models/affine/infer"
        answer = httpx.post(url, json={"inputs": {"x": [[1, 2, 3, 4]], "y": [[1, 1, 1, 1]]}}, timeout=30)
        assert answer.status_code == 200, answer.text
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
