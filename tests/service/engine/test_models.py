"""A served model answers every request exactly once, alone or in a batch, whatever the model does."""

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from service.engine.messages import Failure, Infer, Result
from service.engine.models import ServedModel
from service.engine.served import Pending
from service.errors import Code
from service.repository.catalog import Entry
from service.repository.model_config import Batching
from service.runtime.device import Device
from service.runtime.runner import Runner
from tests.fakes import FakeBatchCounter, FakeConnection, entry

FUTURE = float("inf")


class Gate:
    """A model that waits until it is let through, so that a test decides what shares a batch. Negative values fail."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.passed = threading.Semaphore(0)

    def __call__(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.entered.release()
        self.passed.acquire()
        if bool((inputs[0] < 0).any()):
            raise ValueError("a value is negative\nsecond line")
        return (2 * inputs[0],)


class Bench:
    """A served model, started, with what it talks to."""

    def __init__(self, **changes: Any) -> None:
        self.entry: Entry = entry(**changes)
        self.gate = Gate()
        self.counter = FakeBatchCounter()
        self.connection = FakeConnection()
        device = Device("cpu", threads=1)
        runner = Runner(self.gate, device, self.entry.inputs, self.entry.outputs)
        self.model = ServedModel(self.entry, [runner], device, self.counter)
        self.model.start(on_broken=pytest.fail)

    def submit(self, identity: int, values: Sequence[Sequence[float]], deadline: float | None = None) -> None:
        array = np.array(values, np.float32)
        message = Infer(identity, "double", "1", len(values), (array.shape,), (array.nbytes,), deadline)
        self.model.submit(Pending(message, [memoryview(array.tobytes())], self.connection), now=0.0)

    def run(self, batches: int) -> None:
        """Let this many calls of the model through, then close."""
        for _ in range(batches):
            self.gate.passed.release()
        self.model.close()

    def outputs(self) -> dict[int, list[float]]:
        return {
            identity: np.frombuffer(blobs[0], np.float32).tolist()
            for identity, (message, blobs) in self.connection.answers.items()
            if isinstance(message, Result)
        }

    def failures(self) -> dict[int, Failure]:
        return {i: message for i, (message, _) in self.connection.answers.items() if isinstance(message, Failure)}


def held(**changes: Any) -> Bench:
    """A bench whose only instance is busy with request 0, so that what follows has to wait together."""
    bench = Bench(**changes)
    bench.submit(0, [[0, 0, 0]])
    bench.gate.entered.acquire()
    return bench


def test_requests_that_wait_run_together_and_each_gets_its_own_rows() -> None:
    bench = held()
    bench.submit(1, [[1, 2, 3], [4, 5, 6]])
    bench.submit(2, [[7, 8, 9]])
    bench.run(batches=2)
    assert bench.outputs() == {0: [0, 0, 0], 1: [2, 4, 6, 8, 10, 12], 2: [14, 16, 18]}
    assert bench.counter.batches == [(1, 1), (3, 4)]
    result, _ = bench.connection.answers[2]
    assert isinstance(result, Result)
    assert (result.batch, result.bucket, result.shapes) == (3, 4, ((1, 3),))


def test_only_the_request_at_fault_fails() -> None:
    bench = held()
    for identity, value in ((1, 1.0), (2, -1.0), (3, 3.0), (4, 4.0)):
        bench.submit(identity, [[value] * 3])
    bench.run(batches=1 + 5)  # all four, each half, and the halves of the half at fault
    assert set(bench.outputs()) == {0, 1, 3, 4}
    assert bench.outputs()[3] == [6, 6, 6]
    failure = bench.failures()[2]
    assert failure.code == Code.FAILED
    assert failure.message == "model 'double' failed on this input: ValueError: a value is negative"


def test_each_batch_is_told_why_it_runs_and_what_runs_is_settled_even_where_it_fails() -> None:
    bench = held()
    assert (bench.counter.reasons, bench.counter.running) == (["idle"], 1)
    bench.submit(1, [[1, 1, 1]])
    bench.submit(2, [[-1, -1, -1]])
    bench.run(batches=4)
    assert (bench.counter.reasons, bench.counter.running) == (["idle", "idle"], 0)


def test_a_request_whose_time_ran_out_is_told_and_not_run() -> None:
    bench = held()
    bench.submit(1, [[1, 1, 1]], deadline=0.0)
    bench.submit(2, [[2, 2, 2]], deadline=FUTURE)
    bench.run(batches=2)
    assert bench.failures()[1].code == Code.DEADLINE
    assert bench.outputs()[2] == [4, 4, 4]
    assert bench.counter.batches == [(1, 1), (1, 1)]


def test_a_full_queue_refuses_at_once() -> None:
    bench = held(batching=Batching(max_queue_size=1))
    bench.submit(1, [[1, 1, 1]])
    bench.submit(2, [[2, 2, 2]])
    assert bench.failures()[2].code == Code.QUEUE_FULL
    bench.run(batches=2)
    assert set(bench.outputs()) == {0, 1}


def test_what_a_client_left_behind_is_not_run() -> None:
    bench = held()
    bench.submit(1, [[1, 1, 1]])
    bench.submit(2, [[2, 2, 2]])
    bench.model.cancel(bench.connection, 1)
    bench.model.cancel(bench.connection, 99)
    bench.run(batches=2)
    assert set(bench.connection.answers) == {0, 2}


def test_what_a_dead_frontend_left_behind_is_not_run() -> None:
    bench = held()
    bench.submit(1, [[1, 1, 1]])
    bench.model.forget(bench.connection)
    bench.run(batches=1)
    assert set(bench.connection.answers) == {0}


def test_different_shapes_never_share_a_batch() -> None:
    shape = entry().inputs[0].__class__("x", "FP32", (-1, -1))
    bench = held(inputs=(shape,), outputs=(shape,))
    bench.submit(1, [[1, 1]])
    bench.submit(2, [[2, 2, 2, 2]])
    bench.submit(3, [[3, 3]])
    bench.run(batches=3)
    assert bench.counter.batches == [(1, 1), (2, 2), (1, 1)]
    assert bench.outputs()[2] == [4, 4, 4, 4]


def tripling() -> Runner:
    """A runner that gives three times what came, to be told from one that doubles."""
    described = entry()
    device = Device("cpu", threads=1)
    return Runner(lambda inputs: (3 * inputs[0],), device, described.inputs, described.outputs)


def test_a_batch_that_runs_ends_as_it_began_and_those_that_wait_run_on_the_new_runner() -> None:
    bench = held()
    bench.submit(1, [[1, 1, 1]])
    bench.model.replace_runners([tripling()])
    bench.submit(2, [[2, 2, 2]])
    bench.run(batches=1)  # the new runner has no gate
    assert bench.outputs() == {0: [0, 0, 0], 1: [3, 3, 3], 2: [6, 6, 6]}
    assert bench.counter.batches == [(1, 1), (2, 2)], "what waited before and after ran together: one queue"


def test_half_a_batch_is_not_run_on_another_runner() -> None:
    bench = held()
    for identity, value in ((1, 1.0), (2, -1.0)):
        bench.submit(identity, [[value] * 3])
    bench.gate.passed.release()
    bench.gate.entered.acquire()  # the batch of both is on the old runner
    bench.model.replace_runners([tripling()])
    bench.run(batches=3)  # both together, then each by itself
    assert bench.outputs()[1] == [2, 2, 2]
    assert bench.failures()[2].code == Code.FAILED


def test_replaced_under_load_every_request_is_answered_once_and_in_order() -> None:
    bench = Bench(batching=Batching(max_queue_size=10_000))
    bench.model.replace_runners([tripling()])
    requests, swaps = 2000, 50

    def submit() -> None:
        for identity in range(requests):
            bench.submit(identity, [[identity] * 3])

    submitting = threading.Thread(target=submit)
    submitting.start()
    for _ in range(swaps):
        bench.model.replace_runners([tripling()])
    submitting.join()
    bench.model.close()
    assert list(bench.connection.answers) == list(range(requests))
    assert all(values == [3.0 * identity] * 3 for identity, values in bench.outputs().items())
    assert bench.failures() == {}


def test_what_was_replaced_is_let_go() -> None:
    bench = Bench()
    bench.submit(0, [[0, 0, 0]])
    bench.gate.passed.release()
    model = weakref.ref(bench.gate)
    bench.model.replace_runners([tripling()])
    bench.submit(1, [[1, 1, 1]])
    bench.model.close()
    del bench.gate
    assert model() is None, "its memory is free for the one that serves now"
