"""A small batch that comes alone is run by the thread that brings it, and never beside one of the instance's own."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import pytest
import torch

from service.engine.messages import Infer, Result
from service.engine.models import SLOW_S, ServedModel
from service.engine.rerun import RAN
from service.engine.served import Pending
from service.engine.transport import FrameReader, frame
from service.runtime.device import Device
from service.runtime.runner import Runner
from tests.fakes import FakeBatchCounter, FakeConnection, entry

TIMES_MS = {1: 0.1, 2: 0.2, 4: 5.0}


class Scene:
    """A model that notes which thread called it, and may be held in a call."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.inside = self.most_inside = 0
        self.entered = threading.Semaphore(0)
        self.passed: threading.Semaphore | None = None
        self.connection = FakeConnection()
        self.batching = FakeBatchCounter()
        self.entry = entry(max_batch_size=4, buckets=(1, 2, 4))
        device = Device("cpu", threads=1)
        runner = Runner(self._call, device, self.entry.inputs, self.entry.outputs)
        self.model = ServedModel(self.entry, [runner], device, self.batching)
        self.model.plan_by(TIMES_MS)
        self.model.start(on_broken=pytest.fail)

    def _call(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        self.threads.append(threading.get_ident())
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        self.entered.release()
        if self.passed is not None:
            self.passed.acquire()
        self.inside -= 1
        if bool((inputs[0] < 0).any()):
            raise ValueError("negative")
        return (2 * inputs[0],)

    def submit(self, identity: int, rows: int = 1, value: float = 1.0, is_alone: bool = True, **more: Any) -> None:
        array = np.full((rows, 3), value, np.float32)
        message = Infer(identity, "double", "1", rows, (array.shape,), (array.nbytes,), **more)
        self.model.submit(Pending(message, [memoryview(array.tobytes())], self.connection, is_alone=is_alone), now=0.0)

    def wait_until_idle(self) -> None:
        while not self.model._is_idle:
            os.sched_yield()

    @property
    def is_ours(self) -> list[bool]:
        return [each == threading.get_ident() for each in self.threads]


def test_what_comes_alone_is_answered_before_submit_returns() -> None:
    scene = Scene()
    for identity in range(3):
        scene.wait_until_idle()
        scene.submit(identity)
        assert isinstance(scene.connection.answers[identity][0], Result)
    scene.submit(3, value=-1.0)
    assert "negative" in scene.connection.answers[3][0].message  # type: ignore[union-attr]
    assert scene.is_ours == [True] * 4
    assert scene.batching.running == 0
    scene.model.close()


@pytest.mark.parametrize("more", [{"is_alone": False}, {"rows": 4}, {"retry": RAN}])
def test_what_has_company_is_large_or_suspect_is_the_instances_own(more: dict[str, Any]) -> None:
    scene = Scene()
    scene.wait_until_idle()
    scene.submit(1, **more)
    scene.model.close()
    assert scene.is_ours == [False]


def test_after_a_batch_of_several_the_thread_reads_on() -> None:
    scene = Scene()
    scene.passed = threading.Semaphore(0)
    scene.wait_until_idle()
    scene.submit(1, is_alone=False)
    scene.entered.acquire()
    scene.submit(2)
    scene.submit(3)
    scene.passed.release(3)
    scene.entered.acquire()
    scene.wait_until_idle()
    scene.submit(4)
    scene.model.close()
    assert scene.is_ours == [False] * 3


def test_a_model_that_took_long_once_is_run_so_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.models.SLOW_S", -SLOW_S)
    scene = Scene()
    for identity in range(2):
        scene.wait_until_idle()
        scene.submit(identity)
    scene.model.close()
    assert scene.is_ours == [True, False]


def test_nothing_runs_beside_it_and_to_close_waits_for_it() -> None:
    scene = Scene()
    scene.passed = threading.Semaphore(0)
    scene.wait_until_idle()
    reader = threading.Thread(target=scene.submit, args=(1,))
    reader.start()
    scene.entered.acquire()
    scene.submit(2, is_alone=False)
    closing = threading.Thread(target=scene.model.close)
    closing.start()
    scene.passed.release(2)
    for thread in (reader, closing):
        thread.join()
    assert set(scene.connection.answers) == {1, 2}
    assert (scene.most_inside, len(set(scene.threads))) == (1, 2)


def test_a_frame_is_alone_where_all_of_it_has_come_and_nothing_else() -> None:
    one = b"".join(frame(Infer(1, "m", "1", 1, ((1, 3),), (12,)), [bytes(12)]))
    large = b"".join(frame(Infer(1, "m", "1", 1, ((1, 9),), (90_000,)), [bytes(90_000)]))
    for parts, told in (([one], [True]), ([one + one], [False]), ([one[:-1], one[-1:]], [False, True])):
        assert alone(parts) == told
    assert alone([one[:3], one[3:] + one]) == [False, False]
    assert alone([large[:50_000], large[50_000:]]) == [False, True]
    assert alone([one + large[:100], large[100:], one]) == [False, True, True]


def alone(parts: list[bytes]) -> list[bool]:
    reader, told = FrameReader(Infer), []
    for part in parts:
        reader.buffer()[: len(part)] = part
        told.append(reader.is_alone(len(part)))
        list(reader.received(len(part)))
    return told
