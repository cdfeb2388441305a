"""Compiling with real builders that compete, are killed, or are not needed at all."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compiler.cache import Cache
from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer

SEED = 5
BUILD_S = 3.5  # about what compiling the model takes on two idle cores
REPLICAS = 10


def start(cache: Path, *flags: str, repository: Path = ROOT / "tests/models") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "service.cli", "compile", "affine", *flags),
            *("--model-repository", str(repository), "--cache-dir", str(cache)),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def builders_of(process: subprocess.Popen[str]) -> list[int]:
    """The pids of the builders that `process` runs now."""
    try:
        threads = Path(f"/proc/{process.pid}/task").glob("*/children")
        return [int(pid) for children in threads for pid in children.read_text().split()]
    except OSError:
        return []


def test_ten_replicas_compile_once(tmp_path: Path) -> None:
    outputs = [finish(process) for process in [start(tmp_path) for _ in range(REPLICAS)]]
    assert sum("compiled in" in output for output in outputs) == 1
    assert sum("from the cache in" in output for output in outputs) == REPLICAS - 1
    assert len(Cache(tmp_path).list()) == 1


def test_a_compilation_killed_at_any_time_leaves_a_cache_to_build_on(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    for _ in range(3):
        process = start(tmp_path)
        time.sleep(dice.uniform(0.3, BUILD_S))
        process.kill()
        process.communicate()
        assert [Cache(tmp_path).verify(entry.key) for entry in Cache(tmp_path).list()] in ([], [None])
    finish(start(tmp_path))
    cache = Cache(tmp_path)
    (entry,) = cache.list()
    assert cache.verify(entry.key) is None
    assert list((tmp_path / ".builds").iterdir()) == []


def test_builders_killed_at_any_time_are_a_sentence_and_never_a_broken_artifact(tmp_path: Path) -> None:
    dice, killed = random.Random(SEED), 0
    for _ in range(3):
        process = start(tmp_path)
        time.sleep(dice.uniform(0.5, BUILD_S))
        for pid in builders_of(process):
            os.kill(pid, signal.SIGKILL)
            killed += 1
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0 or "killed by SIGKILL" in output, output
        cache = Cache(tmp_path)
        assert [cache.verify(entry.key) for entry in cache.list()] in ([], [None])
        assert list((tmp_path / ".builds").iterdir()) == []
        cache.prune(0)
    assert killed
    finish(start(tmp_path))


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A repository whose model brings its artifact."""
    repository = tmp_path / "repository"
    shutil.copytree(ROOT / "tests/models/affine", repository / "affine")
    assert "shipped with the model" in finish(start(tmp_path / "built", "--into-repository", repository=repository))
    return repository


def test_a_server_with_an_empty_cache_serves_what_was_shipped(shipped: Path, tmp_path: Path, logs: Path) -> None:
    with RunningServer(shipped, tmp_path / "empty", logs) as server:
        body = b'{"inputs": {"x": [[1, 2, 3, 4]], "y": [[1, 1, 1, 1]]}}'
        status, answer = server.post("/v1/models/affine/infer", body)
        assert (status, answer["outputs"]["sum"]) == (200, [[2, 3, 4, 5]])
        _, model = server.get("/v1/models/affine")
        assert (model["source"], model["optimization"]) == ("cache", "optimised")
    assert not (tmp_path / "empty").exists(), "nothing was built"
