"""One cache for the whole session, so that each model is compiled once; servers that tests may share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.running import RunningServer

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def copy_model(name: str, repository: Path, *backends: str) -> None:
    """A demo model in another repository, compiled exactly and for a few backends: the ladder is tested elsewhere."""
    folder = repository / name
    shutil.copytree(ROOT / "models" / name, folder)
    config = yaml.safe_load((folder / "model.yaml").read_text())
    config["compile"] = {**config.get("compile", {}), "backends": list(backends), "precision": ["fp32"]}
    (folder / "model.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    for name in ("digits", "efficientnet_lite0"):
        copy_model(name, folder, "eager", "torchscript")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One also for all workers of pytest-xdist, whose folders lie in one: what compiles a model makes others wait."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def demo(demo_models: Path, cache: Path, logs: Path) -> Iterator[RunningServer]:
    """The demo models, ready when they are compiled."""
    with RunningServer(demo_models, cache, logs, "--startup", "wait") as server:
        yield server


@pytest.fixture(scope="session")
def zoo(cache: Path, logs: Path) -> Iterator[RunningServer]:
    """Small and misbehaving models, tests/models: they serve as they are while they are compiled."""
    with RunningServer(ROOT / "tests" / "models", cache, logs) as server:
        yield server
