"""`torchere bench` against a running service: closed and open loop, HTTP and gRPC."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer

QUICK = ("--window", "0.3", "--warm-up", "0.2", "--max-windows", "3")


def run_bench(server: RunningServer, protocol: str, folder: Path, *options: str) -> dict[str, Any]:
    url = f"127.0.0.1:{server.grpc_port}" if protocol == "grpc" else server.http
    files = ("--json", str(folder / "out.json"), "--plot", str(folder / "out.svg"))
    command = [sys.executable, "-m", "service.cli", "bench", "affine", "--url", url, "--protocol", protocol]
    done = subprocess.run(
        [*command, *QUICK, *files, "--server-pid", str(server.process.pid), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "requests/s" in done.stdout
    ElementTree.fromstring((folder / "out.svg").read_text())  # our own text
    return dict(json.loads((folder / "out.json").read_text()))


@pytest.mark.parametrize("protocol", ["http", "http-json", "grpc"])
def test_a_closed_loop_over_every_protocol(zoo: RunningServer, protocol: str, tmp_path: Path) -> None:
    written = run_bench(zoo, protocol, tmp_path, "--concurrency", "1,4", "--processes", "2", "--batch", "2")
    assert [each["level"]["concurrency"] for each in written["results"]] == [1, 4]
    for each in written["results"]:
        assert each["requests"] > 0
        assert each["errors"] == {}
        assert each["rows_per_s"] == pytest.approx(2 * each["requests_per_s"], rel=0.01)
        assert each["client_cpu_us"] > 0
        assert each["server_cpu_us"] > 0
        assert each["phases"]["rows_per_batch"] >= 2


def test_an_open_loop_keeps_its_rate(zoo: RunningServer, tmp_path: Path) -> None:
    written = run_bench(zoo, "http", tmp_path, "--rate", "100", "--max-windows", "6")
    (result,) = written["results"]
    assert 40 < result["requests_per_s"] < 200  # 100 on average; less than a second was measured
    assert result["errors"] == {}
    assert result["late_p99_ms"] is not None


def test_a_refused_first_request_stops_before_any_load(zoo: RunningServer) -> None:
    command = [sys.executable, "-m", "service.cli", "bench", "affine", "--url", zoo.http, "--batch", "4096"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the server answers a first request with HTTP 400" in done.stderr
