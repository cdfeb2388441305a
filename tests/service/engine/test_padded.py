"""A served model with padded sizes: texts of different lengths in one batch, each answered as if it were alone."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from compiler.manifest import PaddedTime
from compiler.spec import Padding, TensorSpec
from service.engine.ensemble import ServedEnsemble
from service.engine.messages import Failure, Infer, Result
from service.engine.models import ServedModel
from service.engine.ordered import OrderedModel
from service.engine.rerun import RAN
from service.engine.served import Pending
from service.errors import Code
from service.repository.catalog import Entry
from service.repository.model_config import Batching
from service.repository.scheduling import Ensemble, EnsembleStep
from service.runtime.device import Device
from service.runtime.runner import Runner
from tests.fakes import FakeBatchCounter, FakeConnection, entry

PAD = Padding(
    {"length": (4, 8, 16)},
    {"ids": {1: "length"}, "mask": {1: "length"}},
    {"states": {1: "length"}},
    ("mask",),
)
BUCKETS = (1, 2, 4, 8)
# Seconds: what a test waits for at its gate is far less, and changes no plan.
CALLS_COST = [PaddedTime(rows, (size,), 10_000 + rows * size) for rows in BUCKETS for size in (4, 8, 16)]


def text_entry(**changes: Any) -> Entry:
    return entry(
        inputs=(TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "INT64", (-1, -1))),
        outputs=(TensorSpec("states", "FP32", (-1, -1, 3)), TensorSpec("mean", "FP32", (-1, 3))),
        batching=Batching(pad=PAD, **changes),
    )


class Attention:
    """Each token attends to all that the mask lets it. It waits to be let through; an id of 99 is poison."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(100, 3, generator=generator)
        self.shapes: list[tuple[int, ...]] = []
        self.entered, self.passed = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.entered.release()
        self.passed.acquire()
        self.shapes.append(tuple(inputs[0].shape))
        return self.compute(*inputs)

    def compute(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if bool((ids == 99).any()):
            raise ValueError("poison")
        tokens = self.table[ids]
        scores = (tokens @ tokens.transpose(1, 2)).masked_fill(mask[:, None, :] == 0, float("-inf"))
        states = torch.softmax(scores, -1) @ tokens
        weights = mask[:, :, None].float()
        mean = (states * weights).sum(1) / weights.sum(1)
        assert bool(torch.isfinite(mean).all()), "no row attends to nothing"
        return states, mean


class Inner:
    def finished(self, model: str, version: str, outcome: str, seconds: float, rows: int) -> None:
        assert (model, outcome) == ("double", "success")


class Bench:
    """The model, with one instance that is busy with request 0, of one token."""

    def __init__(self, is_ordered: bool = False, **changes: Any) -> None:
        described = text_entry(**changes)
        self.model, self.counter, self.connection = Attention(), FakeBatchCounter(), FakeConnection()
        device = Device("cpu", threads=1)
        runner = Runner(self.model, device, described.inputs, described.outputs)
        inside = ServedModel(described, [runner], device, self.counter)
        inside.plan_by({}, CALLS_COST)
        self.served = OrderedModel(inside) if is_ordered else inside
        self.sent: dict[int, np.ndarray[Any, Any]] = {}
        self.served.start(on_broken=pytest.fail)
        self.submit(0, 1)
        self.model.entered.acquire()

    def submit(self, identity: int, *lengths: int, poison: bool = False, **more: Any) -> None:
        """A request with a row for each length, padded by its client to the longest."""
        rows, longest = len(lengths), max(lengths)
        ids = np.random.default_rng(identity).integers(1, 99, (rows, longest))
        mask = (np.arange(longest)[None, :] < np.array(lengths)[:, None]).astype(np.int64)
        if poison:
            ids[0, 0] = 99
        self.sent[identity] = ids
        message = Infer(identity, "text", "1", rows, (ids.shape, mask.shape), (ids.nbytes, mask.nbytes), **more)
        tensors = [memoryview(ids.tobytes()), memoryview(mask.tobytes())]
        self.served.submit(Pending(message, tensors, self.connection), now=0.0)

    def run(self, batches: int) -> None:
        for _ in range(batches):
            self.model.passed.release()
        self.served.close()

    def check(self, identity: int, *lengths: int) -> None:
        """It was answered as each of its rows would be alone and without padding."""
        result, (states, mean) = self.connection.answers[identity]
        assert isinstance(result, Result), result
        longest = max(lengths)
        assert result.shapes == ((len(lengths), longest, 3), (len(lengths), 3))
        got = [
            np.frombuffer(data, np.float32).reshape(s) for data, s in zip((states, mean), result.shapes, strict=True)
        ]
        for row, length in enumerate(lengths):
            ids = torch.from_numpy(self.sent[identity][row : row + 1, :length])
            wanted = self.model.compute(ids, torch.ones_like(ids))
            np.testing.assert_allclose(got[0][row, :length], wanted[0][0].numpy(), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(got[1][row], wanted[1][0].numpy(), rtol=1e-5, atol=1e-6)


def test_texts_of_different_lengths_share_a_batch_and_each_is_answered_as_if_alone() -> None:
    bench = Bench()
    bench.submit(1, 3)
    bench.submit(2, 7)
    bench.submit(3, 2, 12)
    bench.run(batches=2)
    for identity, lengths in ((0, (1,)), (1, (3,)), (2, (7,)), (3, (2, 12))):
        bench.check(identity, *lengths)
    assert bench.model.shapes == [(1, 4), (4, 16)]
    assert bench.counter.batches == [(1, 1), (4, 4)]
    assert bench.counter.elements == [(2, 6), (2 * (3 + 7 + 24), 2 * (64 - 34))]


def test_the_longest_of_a_batch_decides_its_size() -> None:
    bench = Bench()
    bench.submit(1, 3)
    bench.submit(2, 4, 1)
    bench.run(batches=2)
    assert bench.model.shapes == [(1, 4), (4, 4)]
    bench.check(2, 4, 1)


def test_only_the_request_at_fault_fails_and_halves_are_padded_for_themselves() -> None:
    bench = Bench()
    bench.submit(1, 3)
    bench.submit(2, 16, poison=True)
    bench.submit(3, 4)
    bench.submit(4, 2)
    bench.run(batches=1 + 5)
    failure, _ = bench.connection.answers[2]
    assert isinstance(failure, Failure)
    assert failure.message.endswith("ValueError: poison")
    for identity, lengths in ((1, (3,)), (3, (4,)), (4, (2,))):
        bench.check(identity, *lengths)
    assert sorted(bench.model.shapes) == [(1, 4), (1, 4), (1, 16), (2, 4), (2, 16), (4, 16)]


def test_a_request_larger_than_a_batch_is_cut_and_joined_beside_others() -> None:
    bench = Bench()
    lengths = (5, 1, 8, 3, 2, 7, 6, 4, 8, 8)
    bench.submit(1, *lengths)
    bench.submit(2, 3)
    bench.run(batches=3)
    bench.check(1, *lengths)
    bench.check(2, 3)


def test_what_ran_before_an_engine_died_shares_no_batch() -> None:
    bench = Bench()
    bench.submit(1, 3)
    bench.submit(2, 3, retry=RAN)
    bench.submit(3, 3)
    bench.run(batches=3)
    assert sorted(bench.counter.batches) == [(1, 1), (1, 1), (2, 2)]
    bench.check(2, 3)


def test_answers_leave_in_order_where_that_is_asked_for() -> None:
    bench = Bench(is_ordered=True)
    for identity, length in ((1, 16), (2, 3), (3, 16)):
        bench.submit(identity, length)
    bench.run(batches=2)
    assert list(bench.connection.answers) == [0, 1, 2, 3]
    bench.check(2, 3)


def test_what_a_client_left_behind_is_not_run() -> None:
    bench = Bench()
    bench.submit(1, 16)
    bench.submit(2, 3)
    bench.served.cancel(bench.connection, 1)
    bench.run(batches=2)
    assert bench.model.shapes == [(1, 4), (1, 4)]


def test_an_ensemble_may_leave_the_mask_out_and_its_requests_share_batches() -> None:
    bench = Bench()
    step = EnsembleStep("double", {"ids": "tokens"}, {"states": "states", "mean": "mean"})
    outer = entry(
        name="outer",
        inputs=(TensorSpec("tokens", "INT64", (-1, -1)),),
        outputs=bench.served.entry.outputs,
        ensemble=Ensemble((step,)),
    )
    ensemble = ServedEnsemble(outer, lambda name, version: [bench.served], FakeBatchCounter(), Inner())
    for identity, length in ((1, 3), (2, 9)):
        ids = bench.sent[identity] = np.full((1, length), 7 + identity)
        message = Infer(identity, "outer", "1", 1, (ids.shape,), (ids.nbytes,))
        ensemble.submit(Pending(message, [memoryview(ids.tobytes())], bench.connection), 0.0)
    bench.run(batches=2)
    assert bench.model.shapes == [(1, 4), (2, 16)]
    bench.check(1, 3)
    bench.check(2, 9)


def test_what_another_model_gives_that_is_too_long_is_refused_here() -> None:
    bench = Bench()
    bench.submit(1, 17)
    failure, _ = bench.connection.answers[1]
    assert isinstance(failure, Failure)
    assert failure.code == Code.INVALID
    assert "length, must be from 1 to 16 for model 'double', got 17: shorten it" in failure.message
    bench.run(batches=1)
