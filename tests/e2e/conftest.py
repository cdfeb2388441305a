"""One cache for the whole session, so that each model is compiled once; servers that tests may share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running import RunningServer

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="session")
def demo(cache: Path, logs: Path) -> Iterator[RunningServer]:
    """The demo repository, ready when it is compiled."""
    with RunningServer(ROOT / "models", cache, logs, "--startup", "wait") as server:
        yield server


@pytest.fixture(scope="session")
def zoo(cache: Path, logs: Path) -> Iterator[RunningServer]:
    """Small and misbehaving models, tests/models: they serve as they are while they are compiled."""
    with RunningServer(ROOT / "tests" / "models", cache, logs) as server:
        yield server
