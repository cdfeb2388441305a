"""On a real GPU: texts of different lengths share batches, each shape has a CUDA graph, and answers are as if alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compiler.manifest import PaddedTime
from compiler.spec import Padding, TensorSpec
from service.engine.messages import Infer, Result
from service.engine.opening import example_shapes, served_specs
from service.engine.overlapped import OverlappedModel
from service.engine.served import Pending
from service.repository.model_config import Batching
from service.runtime.device import Device
from service.runtime.runner import Runner
from tests.fakes import FakeBatchCounter, FakeConnection, entry

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

REQUESTS = 400
PAD = Padding({"length": (8, 32)}, {"ids": {1: "length"}, "mask": {1: "length"}}, {"states": {1: "length"}}, ("mask",))


class Attention:
    def __init__(self, device: str) -> None:
        self.table = torch.randn(100, 16, generator=torch.Generator().manual_seed(0)).to(device)

    def __call__(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        ids, mask = inputs
        tokens = self.table[ids]
        scores = (tokens @ tokens.transpose(1, 2)).masked_fill(mask[:, None, :] == 0, float("-inf"))
        states = torch.softmax(scores, -1) @ tokens
        weights = mask[:, :, None].float()
        return states, (states * weights).sum(1) / weights.sum(1)


def test_texts_of_different_lengths_are_answered_as_if_alone_by_graphs() -> None:
    described = entry(
        inputs=(TensorSpec("ids", "INT64", (-1, -1), (0, 99)), TensorSpec("mask", "INT64", (-1, -1), (1, 1))),
        outputs=(TensorSpec("states", "FP32", (-1, -1, 16)), TensorSpec("mean", "FP32", (-1, 16))),
        batching=Batching(max_queue_size=REQUESTS, pad=PAD),
    )
    device, counter, connection = Device("cuda:0", threads=2), FakeBatchCounter(), FakeConnection()
    runner = Runner(Attention("cuda:0"), device, described.inputs, described.outputs, described.buckets)
    for bucket, specs in served_specs(described):
        assert runner.warm_up(example_shapes(described, specs, bucket), bucket) == "", "each shape has a graph"
    model = OverlappedModel(described, [runner], device, counter)
    model.plan_by({}, [PaddedTime(rows, (size,), 1.0) for rows in described.buckets for size in (8, 32)])
    generator = np.random.default_rng(0)
    sent = [generator.integers(0, 100, (1, int(length))) for length in generator.integers(1, 33, REQUESTS)]
    for identity, ids in enumerate(sent):
        shapes, sizes = (ids.shape, ids.shape), (ids.nbytes, ids.nbytes)
        tensors = [memoryview(ids.tobytes()), memoryview(np.ones_like(ids).tobytes())]
        model.submit(Pending(Infer(identity, "double", "1", 1, shapes, sizes), tensors, connection), now=0.0)
    model.start(on_broken=pytest.fail)
    model.close()
    alone = Attention("cpu")
    for identity, ids in enumerate(sent):
        result, blobs = connection.answers[identity]
        assert isinstance(result, Result), result
        wanted = alone((torch.from_numpy(ids), torch.ones(ids.shape, dtype=torch.int64)))
        for blob, shape, output in zip(blobs, result.shapes, wanted, strict=True):
            got = np.frombuffer(blob, np.float32).reshape(shape)
            np.testing.assert_allclose(got, output.numpy(), rtol=1e-3, atol=1e-4)
    assert len(counter.batches) < REQUESTS / 4
