"""On a real GPU: an error that poisons the CUDA context costs its own request alone; the engine is replaced at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.e2e.running import RunningServer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ENGINE = "service.engine.worker"
WORDS, BEYOND = 100, 1_000_000  # the GPU asserts that an index is one of the table: the context is lost where it is not
NOTICED_S = 5.0
MODEL = f"""
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding({WORDS}, 4)
        nn.init.constant_(self.table.weight, 0.5)

    def forward(self, index):
        return self.table(index).sum(dim=1)

def create_model():
    return Words()
"""
CONFIG = """
trust: true
startup: wait
max_batch_size: 8
inputs:
  - {name: index, datatype: INT64, shape: [-1, 2], range: [0, 99]}
compile: {backends: eager}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "models" / "words" / "1").mkdir(parents=True)
    (folder / "models" / "words" / "1" / "model.py").write_text(MODEL)
    (folder / "models" / "words" / "model.yaml").write_text(CONFIG)
    with RunningServer(
        folder / "models", folder / "cache", folder, "--device", "cuda:0", "--startup", "wait"
    ) as running:
        yield running


def ask(server: RunningServer, index: int) -> tuple[int, object]:
    body = {"inputs": [{"name": "index", "datatype": "INT64", "shape": [1, 2], "data": [index, 1]}]}
    status, answer = server.post("/v2/models/words/infer", json.dumps(body).encode())
    return status, answer["outputs"][0]["data"] if status == 200 else answer


def test_one_request_breaks_the_device_and_all_others_are_answered(server: RunningServer) -> None:
    (first,) = server.children(ENGINE)
    assert ask(server, 3) == (200, [1.0] * 4)
    with ThreadPoolExecutor(33) as pool:
        good = [pool.submit(ask, server, index % WORDS) for index in range(16)]
        bad = pool.submit(ask, server, BEYOND)
        good += [pool.submit(ask, server, index % WORDS) for index in range(16)]
        began = time.monotonic()
        server.wait_for(lambda: first not in server.children(ENGINE), "the engine to leave")
        assert time.monotonic() - began < NOTICED_S, "nothing runs on a device that is broken"
        assert [each.result() for each in good] == [(200, [1.0] * 4)] * 32
        status, told = bad.result()
    assert status in {500, 503}, told
    server.wait_until_ready()
    assert ask(server, 5) == (200, [1.0] * 4)
    assert "device-side assert" in server.log()
