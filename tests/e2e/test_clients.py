"""Unmodified tritonclient, HTTP and gRPC, against the real service: every datatype, every mistake. Calls: foreign/."""

import json
import runpy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer


class Door:
    """One protocol of a running server, asked through tritonclient in a process of its own."""

    def __init__(self, protocol: str, server: RunningServer) -> None:
        self.protocol = protocol
        self.address = f"127.0.0.1:{server.http_port if protocol == 'http' else server.grpc_port}"

    def do(self, action: str, *arguments: str) -> Any:
        command = [sys.executable, "-m", "tests.e2e.clients", self.protocol, self.address, action, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=["http", "grpc"])
def door(request: pytest.FixtureRequest, zoo: RunningServer) -> Door:
    return Door(request.param, zoo)


def test_every_datatype_comes_back_as_it_went(door: Door) -> None:
    came = door.do("everything")
    assert len(came) == 10
    assert all(came.values()), came


INVALID = ("400", "StatusCode.INVALID_ARGUMENT")
NOT_FOUND = ("404", "StatusCode.NOT_FOUND")
EXPECTED = {
    "unknown model": (NOT_FOUND, "unknown model 'nobody'"),
    "unknown version": (NOT_FOUND, "no version '9': its versions are 1"),
    "missing input": (INVALID, "missing input 'y'"),
    "unknown input": (INVALID, "no input 'z'"),
    "wrong shape": (INVALID, "expected FP32 [-1,4] (batch up to 16), got FP32 [1,5]: dimension 1 must be 4"),
    "no batch": (INVALID, "got FP32 [4]: add the batch dimension"),
    "wrong datatype": (INVALID, "got FP64 [1,4]: send the data as FP32"),
    "batch too large": (INVALID, "batch of 17 rows is larger than max_batch_size 16"),
    "unknown output": (INVALID, "no output 'z': its outputs are sum, scaled"),
    "model fails": (("500", "StatusCode.INTERNAL"), "failed on this input: ValueError: a value is negative"),
    "broken model": (("503", "StatusCode.UNAVAILABLE"), "the weights are on the moon"),
}


def test_every_mistake_has_its_status_and_its_remedy(door: Door) -> None:
    came = door.do("errors")
    column = 0 if door.protocol == "http" else 1
    for mistake, (statuses, sentence) in EXPECTED.items():
        status, message = came[mistake]
        assert status == statuses[column], (mistake, status, message)
        assert sentence in message, mistake
    assert door.do("infer")["id"] == "42", "the server lives on"


LENGTHS = (5, 17, 33, 64, 1, 8, 5, 17, 5, 17)  # some as before: those are looked up


def test_texts_of_different_lengths_share_batches_and_are_answered_as_if_alone(door: Door, zoo: RunningServer) -> None:
    model = runpy.run_path(str(ROOT / "tests/models/texts/1/model.py"))["create_model"]()
    batches = zoo.metric("torchere_batch_rows_count", model="texts")
    padding = zoo.metric("torchere_padded_elements_total", model="texts", kind="padding")
    came = door.do("texts", ",".join(map(str, LENGTHS)))
    for number, (length, (states, mean)) in enumerate(zip(LENGTHS, came, strict=True)):
        ids = torch.from_numpy(np.random.default_rng(number).integers(0, 100, (1, length)))
        wanted = model(ids, torch.ones_like(ids))
        np.testing.assert_allclose(states, wanted["states"][0].numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(mean, wanted["mean"][0].numpy(), rtol=1e-4, atol=1e-5)
    assert 1 <= zoo.metric("torchere_batch_rows_count", model="texts") - batches < len(LENGTHS)
    assert zoo.metric("torchere_padded_elements_total", model="texts", kind="padding") > padding
    config = zoo.get("/v2/models/texts/config")[1]
    assert [each.get("optional", False) for each in config["input"]] == [False, True]
    request = {"inputs": [{"name": "ids", "datatype": "INT64", "shape": [1, 65], "data": [0] * 65}]}
    status, answer = zoo.post("/v2/models/texts/infer", json.dumps(request).encode(), Content_Type="application/json")
    assert status == 400
    assert "input 'ids': dimension 1, length, must be from 1 to 64 for model 'texts', got 65" in answer["error"]
