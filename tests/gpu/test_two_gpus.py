"""The whole service on every GPU of the machine: an engine for each, all are asked; one dies, and nothing is lost."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.e2e.breaking import Clients, LargeClients, Seen
from tests.e2e.running import RunningServer
from tests.gpu.ownership import Owner, placed, register

DEVICES = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(len(DEVICES) < 2, reason="needs two CUDA devices")]

ROOT = Path(__file__).parents[2]
ENGINE = "service.engine.worker"
HEAVY = """
import torch
from torch import nn

class Heavy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.layer, self.last = nn.Linear(16, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 16)

    def forward(self, x):
        x = self.first(x)
        for _ in range(150):  # 64 MB are read each time, which no cache holds
            x = torch.tanh(self.layer(x))
        return self.last(x)

def create_model():
    return Heavy()
"""
HEAVY_CONFIG = """
trust: true
max_batch_size: 8
inputs:
  - {name: x, datatype: FP32, shape: [-1, 16]}
batching: {buckets: [1, 8]}
compile: {backends: [torchscript], precision: [fp32]}
"""
CONCURRENCY = 64
GAIN = 1.7  # of two GPUs over one, for a model that computes all the time


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for model in ("poison", "wide"):
        shutil.copytree(ROOT / "tests" / "models" / model, folder / "models" / model)
    (folder / "models" / "heavy" / "1").mkdir(parents=True)
    (folder / "models" / "heavy" / "1" / "model.py").write_text(HEAVY)
    (folder / "models" / "heavy" / "model.yaml").write_text(HEAVY_CONFIG)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    flags = ("--startup", "wait", "--shared-memory", "all", "--frontends", "3", "--rerun-timeout-s", "100")
    with RunningServer(folder / "models", folder / "cache", folder, *flags) as running:
        yield running


def press(server: RunningServer, folder: Path, seconds: float = 1.0) -> float:
    """Requests per second of `heavy`, one row each."""
    out = folder / "press.json"
    command = [sys.executable, "-m", "service.cli", "bench", "heavy", "--url", server.http, "--processes", "3"]
    command += ["--concurrency", str(CONCURRENCY), "--max-windows", "4", "--warm-up", str(seconds), "--json", str(out)]
    subprocess.run(command, check=True, stdout=sys.stderr, timeout=90)
    (level,) = json.loads(out.read_text())["results"]
    return float(level["requests_per_s"])


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_each_gpu_has_an_engine_that_sees_no_other(server: RunningServer) -> None:
    seen = []
    for pid in server.children(ENGINE):
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        seen += [each.partition("=")[2] for each in environment if each.startswith("CUDA_VISIBLE_DEVICES=")]
    assert len(seen) == len(DEVICES)
    assert len(set(seen)) == len(DEVICES), seen
    for device in DEVICES:
        assert server.metric("torchere_model_memory_bytes", model="heavy", device=device) > 64e6, "its weights"


def test_the_metrics_have_every_card(server: RunningServer) -> None:
    if importlib.util.find_spec("pynvml") is None:
        pytest.skip("needs nvidia-ml-py")
    for number in range(len(DEVICES)):
        used, total = (
            server.metric(f"torchere_gpu_memory_{what}_bytes", gpu=str(number)) for what in ("used", "total")
        )
        assert 100e6 < used < total
        assert server.metric("torchere_gpu_power_watts", gpu=str(number)) > 1


def test_all_of_them_compute_and_that_is_faster_than_one(server: RunningServer, folder: Path) -> None:
    pids = server.children(ENGINE)
    before = [processor_ticks(pid) for pid in pids]
    busiest = dict.fromkeys(range(len(DEVICES)), 0.0)
    pressed = threading.Event()

    def look() -> None:
        while not pressed.wait(0.5):
            for number in busiest:
                now = server.metric("torchere_gpu_utilization_ratio", gpu=str(number))
                busiest[number] = max(busiest[number], now)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        together = press(server, folder)
    finally:
        pressed.set()
        looking.join()
    spent = [processor_ticks(pid) - ticks for pid, ticks in zip(pids, before, strict=True)]
    assert min(spent) > 0.5 * max(spent), f"clock ticks of the engines: {spent}"
    if importlib.util.find_spec("pynvml") is not None:
        assert min(busiest.values()) > 0.5, busiest
    flags = ("--device", "cuda:0", "--startup", "wait", "--models", "heavy", "--frontends", "3")
    with RunningServer(folder / "models", folder / "cache", folder, *flags) as single:
        alone = press(single, folder)
    print(f"heavy: {together:.0f} requests/s on {len(DEVICES)} GPUs, {alone:.0f} on one; ticks {spent}; busy {busiest}")
    assert together > GAIN * alone


@pytest.mark.parametrize("door", ["http", "grpc", "large"])
def test_kill_9_of_one_engine_under_load_loses_nothing(door: str, server: RunningServer) -> None:
    """The others answer on: what the dead one had is run again by them."""
    seen, pids = Seen(), server.children(ENGINE)
    clients = (LargeClients if door == "large" else Clients)(server.http_port, server.grpc_port)
    live: list[int] = []

    async def until(condition: Any, what: str) -> None:
        ends = time.monotonic() + 90
        while not await asyncio.to_thread(condition):
            assert time.monotonic() < ends, what
            await asyncio.sleep(0.02)

    def is_whole() -> bool:
        live.append(server.get("/v2/health/live")[0])
        now = server.children(ENGINE)
        return len(now) == len(pids) and set(now) != set(pids) and server.get("/v2/health/ready")[0] == 200

    async def break_it() -> None:
        await until(lambda: seen.right > 60, "the load to be there")
        os.kill(pids[-1], signal.SIGKILL)
        at_once = seen.right
        await until(lambda: seen.right > at_once + 60, "the others to answer")
        await until(is_whole, "a new engine")
        before = seen.right
        await until(lambda: seen.right > before + 60, "all to answer")

    ask = clients.over_grpc if door == "grpc" else clients.over_http
    asyncio.run(clients.while_asking(16, seen, ask, break_it))
    print(f"{door}: {seen.right} right, longest {max(seen.seconds, default=0.0):.2f} s")
    assert (seen.others, seen.broken) == ([], 0)
    assert set(live) == {200}


def test_tensors_in_the_memory_of_a_gpu_go_to_its_engine(server: RunningServer) -> None:
    x = np.array([[1, 5], [2, 7]], np.float32)
    for number in range(len(DEVICES)):
        with Owner(device=number) as owner:
            owner.write(0, x)
            assert register(server, f"on{number}", owner.handle, device=number) == (200, {})
            given = {"name": "x", "datatype": "FP32", "shape": [2, 2], "parameters": placed(f"on{number}", 0, x.nbytes)}
            taken = {"name": "y", "parameters": placed(f"on{number}", 1024, x.nbytes)}
            body = json.dumps({"inputs": [given], "outputs": [taken]}).encode()
            status, answer = server.post("/v2/models/poison/infer", body)
            assert status == 200, answer
            np.testing.assert_array_equal(owner.read(1024, x.shape), x + 1)
            assert server.post(f"/v2/cudasharedmemory/region/on{number}/unregister", b"") == (200, {})
