"""The metrics sidecar as a container of its own: how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from service.observe.store import Store
from tests.e2e.running import POLL_S, free_ports
from tests.service.observe.counting import count

START_S = 30.0


class Sidecar:
    """`python -m service.observe.sidecar` beside a store that this process counts in."""

    def __init__(self, folder: Path, *flags: str) -> None:
        (self._port,) = free_ports(1)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "service.observe.sidecar", "--directory", str(folder)),
                *("--port", str(self._port), *flags),
            ]
        )
        deadline = time.monotonic() + START_S
        while not self.tells("torchere_requests_total"):
            assert time.monotonic() < deadline
            time.sleep(POLL_S)

    def tells(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
                return name in answer.read().decode()
        except OSError:
            return False


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    count(made)
    return made


def test_it_tells_of_a_service_that_drains_to_its_end(tmp_path: Path, store: Store) -> None:
    sidecar = Sidecar(tmp_path, "--linger", "60")
    sidecar.process.send_signal(signal.SIGTERM)
    for _ in range(10):
        assert sidecar.tells("torchere_requests_total")
    assert sidecar.process.poll() is None
    store.close()
    assert sidecar.process.wait(30) == 0


def test_it_leaves_at_once_where_nobody_asked_it_to_stay(tmp_path: Path, store: Store) -> None:
    sidecar = Sidecar(tmp_path)
    sidecar.process.send_signal(signal.SIGTERM)
    assert sidecar.process.wait(30) == 0
    store.close()
