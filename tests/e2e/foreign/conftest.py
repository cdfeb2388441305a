"""One server with every door open, for clients that know nothing of it, and what `make clients` has fetched."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import times
from tests.e2e.conftest import ROOT, copy_model
from tests.e2e.running import RunningServer

FETCHED = ROOT / "build" / "clients"
PAGE = ROOT / "docs" / "clients.md"
SMALL = ("affine", "poison", "patient", "mood", "story", "total")  # of tests/models


@pytest.fixture(scope="session")
def open_server(cache: Path, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """SMALL and digits serve; `times` waits to be loaded."""
    repository = tmp_path_factory.mktemp("foreign")
    for name in SMALL:
        shutil.copytree(ROOT / "tests" / "models" / name, repository / name)
    copy_model("digits", repository, "eager", "torchscript")
    times.write(repository, "times", 1, factor=2)
    flags = ["--startup", "wait", "--frontends", "2", "--shared-memory", "system", "--trust-uploads"]
    flags += [
        "--model-control-mode",
        "explicit",
        *(each for name in (*SMALL, "digits") for each in ("--load-model", name)),
    ]
    with RunningServer(repository, cache, logs, *flags) as server:
        yield server


def documented(client: str) -> set[str]:
    """The calls that a section of docs/clients.md names."""
    section = PAGE.read_text().split(f"\n## {client}\n", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"`([a-z0-9_]+)`", section))


def fetched(name: str) -> Path:
    """A client that is not part of this project's environment; the test is skipped where it was not fetched."""
    path = FETCHED / name
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is not there: `make clients` fetches it")
    return path


@pytest.fixture(scope="session")
def kserve_python() -> Path:
    return fetched("kserve/bin/python")


@pytest.fixture(scope="session")
def buf() -> Path:
    return fetched("bin/buf")


@pytest.fixture(scope="session")
def perf_analyzer() -> tuple[Path, dict[str, str]]:
    """The program, and the environment in which it finds its libraries."""
    return fetched("bin/perf_analyzer"), {**os.environ, "LD_LIBRARY_PATH": str(FETCHED / "lib")}
