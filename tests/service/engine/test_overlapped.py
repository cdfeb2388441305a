"""On a device that computes on its own the next batch is under way before one has landed; all are answered once."""

import os
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pytest
import torch

from service.engine.foresight import Foresight
from service.engine.messages import Failure, Infer, Result
from service.engine.overlapped import OverlappedModel
from service.engine.served import Pending
from service.errors import Code
from service.runtime.device import Device
from service.runtime.runner import Laid, Launched, Output, Runner
from tests.fakes import FakeBatchCounter, FakeConnection, entry

PATIENCE_S = 20.0


class Late(Runner):
    """Computes when it is waited for, as a device would meanwhile."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.launched = threading.Semaphore(0)
        self.under_way = self.most = 0
        self.refuses = False
        self.meanwhile: list[Callable[[], None]] = []  # happens while a batch is launched

    def launch(self, laid: Laid, stays: Collection[int] = ()) -> Launched:
        if self.meanwhile:
            self.meanwhile.pop()()
        if self.refuses:
            return self.compute(laid) and pytest.fail("it fails")
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self.launched.release()
        return Launched(laid, None)  # type: ignore[arg-type]

    def land(self, launched: Launched) -> tuple[list[Output], tuple[int, int, int, int]]:
        try:
            return self.compute(launched.laid)
        finally:
            self.under_way -= 1


class Bench:
    """A model that waits until it is let through. Negative values fail; 999 gives too few rows."""

    def __init__(self, **changes: Any) -> None:
        self.passed = threading.Semaphore(0)
        self.threads: list[int] = []  # that computed
        self.entry = entry(**changes)
        self.counter, self.connection = FakeBatchCounter(), FakeConnection()
        device = Device("cpu", threads=1)
        self.runner = Late(self._compute, device, self.entry.inputs, self.entry.outputs)
        self.model = OverlappedModel(self.entry, [self.runner], device, self.counter)
        self.model.start(on_broken=pytest.fail)

    def _compute(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.threads.append(threading.get_ident())
        assert self.passed.acquire(timeout=PATIENCE_S)
        if bool((inputs[0] < 0).any()):
            raise ValueError("a value is negative")
        return (2 * inputs[0][: -1 if bool((inputs[0] == 999).any()) else None],)

    def submit(self, identity: int, value: float, is_alone: bool = False) -> None:
        array = np.full((1, 3), value, np.float32)
        message = Infer(identity, "double", "1", 1, (array.shape,), (array.nbytes,))
        self.model.submit(Pending(message, [memoryview(array.tobytes())], self.connection, is_alone=is_alone), now=0.0)

    def wait_until_idle(self) -> None:
        while not self.model._is_idle:
            os.sched_yield()

    def close(self, calls: int = 10_000) -> None:
        self.passed.release(calls)
        self.model.close()

    def outputs(self) -> dict[int, float]:
        answers = self.connection.answers.items()
        return {
            n: float(np.frombuffer(blobs[0], np.float32)[0]) for n, (got, blobs) in answers if isinstance(got, Result)
        }


def test_the_next_batch_is_launched_while_the_first_computes_and_no_third() -> None:
    bench = Bench()
    for identity in range(4):
        bench.submit(identity, identity)
        if identity < 2:
            assert bench.runner.launched.acquire(timeout=PATIENCE_S)
    bench.close()
    assert bench.outputs() == {0: 0, 1: 2, 2: 4, 3: 6}
    assert bench.runner.most == 2
    assert bench.counter.running == 0


def test_many_requests_are_each_answered_once() -> None:
    bench = Bench(max_batch_size=4)
    bench.passed.release(10_000)
    for identity in range(300):
        bench.submit(identity, identity)
    bench.close()
    assert bench.outputs() == {identity: 2 * identity for identity in range(300)}
    assert sum(rows for rows, _ in bench.counter.batches) == 300


@pytest.mark.parametrize("value", [-1.0, 999.0], ids=["raises", "too few rows"])
def test_only_the_request_at_fault_fails_though_others_are_under_way(value: float) -> None:
    bench = Bench(max_batch_size=4)
    for identity in range(20):
        bench.submit(identity, value if identity == 6 else identity)
    bench.close()
    assert bench.outputs() == {identity: 2 * identity for identity in range(20) if identity != 6}
    failure, _ = bench.connection.answers[6]
    assert isinstance(failure, Failure)
    assert failure.code == Code.FAILED
    assert bench.counter.running == 0


def test_a_full_batch_that_waits_is_launched_though_the_device_is_busy_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def submit_more() -> None:
        for identity in range(1, 5):
            bench.submit(identity, identity)

    later = time.monotonic() + 100 * PATIENCE_S
    monkeypatch.setattr(Foresight, "prepares_at", lambda self, rows: later if self._ends else 0.0)
    bench = Bench(max_batch_size=4, buckets=(1, 2, 4))
    bench.runner.meanwhile.append(submit_more)
    bench.submit(0, 0)
    for _ in range(2):
        assert bench.runner.launched.acquire(timeout=PATIENCE_S)
    bench.close()
    assert bench.outputs() == {identity: 2 * identity for identity in range(5)}
    assert [rows for rows, _ in bench.counter.batches] == [1, 4]


def test_what_arrives_while_the_device_computes_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.monotonic() + 100 * PATIENCE_S
    monkeypatch.setattr(Foresight, "prepares_at", lambda self, rows: later if self._ends and rows < 64 else 0.0)
    bench = Bench(max_batch_size=64, buckets=(1, 64))
    bench.submit(0, 0)
    assert bench.runner.launched.acquire(timeout=PATIENCE_S)
    waiting: list[int] = []  # when it began to listen
    listen = bench.model._inbox.wait

    def note(seconds: float | None = None) -> bool:
        waiting.append(len(bench.model._batcher))
        return listen(seconds)

    monkeypatch.setattr(bench.model._inbox, "wait", note)
    for identity in range(1, 20):
        bench.submit(identity, identity)
    assert set(waiting) <= {0}
    monkeypatch.undo()
    bench.close()
    assert bench.outputs() == {identity: 2 * identity for identity in range(20)}


def test_a_batch_that_cannot_be_launched_is_run_in_halves() -> None:
    bench = Bench(max_batch_size=4)
    bench.runner.refuses = True
    bench.submit(0, -1.0)
    bench.close()
    assert isinstance(bench.connection.answers[0][0], Failure)


def test_what_comes_alone_while_nothing_is_under_way_is_answered_before_submit_returns() -> None:
    bench = Bench()
    bench.model.plan_by({1: 0.1})
    bench.passed.release(3)
    for identity in range(3):
        bench.wait_until_idle()
        bench.submit(identity, -1.0 if identity == 1 else identity, is_alone=True)
        assert identity in bench.connection.answers
    assert bench.threads == [threading.get_ident()] * 3
    assert isinstance(bench.connection.answers[1][0], Failure)
    assert bench.counter.running == 0
    bench.close()
    assert bench.outputs() == {0: 0, 2: 4}


def test_what_comes_meanwhile_waits_for_it_and_is_the_instances_own() -> None:
    bench = Bench()
    bench.model.plan_by({1: 0.1})
    bench.wait_until_idle()
    reader = threading.Thread(target=bench.submit, args=(0, 0), kwargs={"is_alone": True})
    reader.start()
    while not bench.threads:
        os.sched_yield()
    for identity in (1, 2):
        bench.submit(identity, identity, is_alone=True)
    assert bench.runner.under_way == 0, "one that is lent launches nothing itself"
    closing = threading.Thread(target=bench.model.close)
    closing.start()
    bench.passed.release(3)
    for thread in (reader, closing):
        thread.join()
    assert bench.outputs() == {0: 0, 1: 2, 2: 4}
    assert [each == reader.ident for each in bench.threads].count(True) == 1


def test_a_model_that_is_not_quick_is_never_lent() -> None:
    bench = Bench()
    bench.model.plan_by({1: 50.0})
    bench.wait_until_idle()
    bench.submit(0, 0, is_alone=True)
    bench.close()
    assert bench.threads[0] != threading.get_ident()
