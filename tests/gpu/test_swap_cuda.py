"""On a real GPU: one runner serves, good and bad requests, while another records its CUDA graphs and takes over."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from service.engine.messages import Failure, Infer, Result
from service.engine.models import ServedModel
from service.engine.served import Pending
from service.errors import Code
from service.repository.model_config import Batching
from service.runtime.device import Device
from service.runtime.runner import Runner
from tests.fakes import FakeBatchCounter, FakeConnection, entry

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SWAPS = 12
WIDTH = 64
SEED = 0
OUTSTANDING = 32  # four batches: there is always one to run, and the queue does not grow

Row = np.ndarray[Any, Any]


class Checked:
    """Refuses negative values, and looks at each: a call that waits for the GPU and that no graph can hold."""

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight

    def __call__(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if bool((inputs[0] < 0).any()):
            raise ValueError("a value is negative")
        return (inputs[0] @ self._weight,)


class PacedConnection(FakeConnection):
    """`room` holds back a client with many requests under way."""

    def __init__(self) -> None:
        super().__init__()
        self.room = threading.Semaphore(OUTSTANDING)

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None:
        super().send(answers)
        self.room.release(len(answers))


class Bench:
    """A served model on the GPU and the requests of one client, some of which its first kind of runner refuses."""

    def __init__(self) -> None:
        spec = entry().inputs[0].__class__("x", "FP32", (-1, WIDTH))
        self.entry = entry(inputs=(spec,), outputs=(spec,), batching=Batching(max_queue_size=100_000))
        self.device = Device("cuda:0", threads=2)
        torch.manual_seed(SEED)
        self.weight = torch.randn(WIDTH, WIDTH, device="cuda:0")
        self.broken: list[str] = []
        self.connection = PacedConnection()
        self.model = ServedModel(self.entry, [self.plain()], self.device, FakeBatchCounter())
        self.model.start(on_broken=self.broken.append)

    def plain(self) -> Runner:
        return Runner(Checked(self.weight), self.device, self.entry.inputs, self.entry.outputs)

    def recorded(self) -> Runner:
        """A runner with a graph for every batch size."""
        weight = self.weight.clone()
        runner = Runner(
            lambda inputs: (inputs[0] @ weight,), self.device, self.entry.inputs, self.entry.outputs, self.entry.buckets
        )
        for bucket in reversed(self.entry.buckets):
            assert runner.warm_up([(bucket, WIDTH)], bucket) == ""
        return runner

    def submit(self, identity: int, row: Row) -> None:
        message = Infer(identity, "double", "1", 1, ((1, WIDTH),), (row.nbytes,))
        self.model.submit(Pending(message, [memoryview(row.tobytes())], self.connection), now=0.0)

    def wrong(self, rows: Sequence[Row]) -> list[int]:
        """The requests that were answered with something else than their own row gives."""
        weight = self.weight.cpu().numpy()
        found = []
        for identity, row in enumerate(rows):
            message, blobs = self.connection.answers[identity]
            is_refused = isinstance(message, Failure) and message.code == Code.FAILED and bool((row < 0).any())
            is_right = isinstance(message, Result) and np.allclose(
                np.frombuffer(blobs[0], np.float32), row @ weight, rtol=1e-3, atol=1e-3
            )
            if not (is_refused or is_right):
                found.append(identity)
        return found


def test_graphs_are_recorded_beside_what_serves_and_take_over() -> None:
    bench, swapped = Bench(), threading.Event()
    failure: list[Exception] = []

    def load() -> None:
        """As the engine's loader does, on a thread and a stream of its own."""
        try:
            with bench.device.stream():
                for _ in range(SWAPS):
                    bench.model.replace_runners([bench.recorded()])
                    bench.model.replace_runners([bench.plain()])
        except Exception as error:  # noqa: BLE001 - the test tells it
            failure.append(error)
        swapped.set()

    loading = threading.Thread(target=load)
    loading.start()
    generator = np.random.default_rng(SEED)
    rows: list[Row] = []
    while not swapped.is_set():
        row = np.abs(generator.normal(size=WIDTH)).astype(np.float32)
        rows.append(-row if len(rows) % 7 == 0 else row)
        bench.connection.room.acquire()
        bench.submit(len(rows) - 1, rows[-1])
    loading.join()
    bench.model.close()
    assert failure == []
    assert bench.broken == [], "a refused input is no broken device"
    assert list(bench.connection.answers) == list(range(len(rows))), "each once, in order"
    assert bench.wrong(rows) == []
