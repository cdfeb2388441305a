"""On a real GPU: rows that lie in memory shared with a frontend are copied by the GPU itself, and come out right."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from compiler.spec import TensorSpec
from service.engine.arena import Guest, Loan, make_memory
from service.runtime.buffers import Scattered
from service.runtime.device import Device
from service.runtime.runner import Laid, Runner

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ROW, STEP, SIZE = 150_528, 262_144, 64 << 20
SPEC, SUM = TensorSpec("x", "UINT8", (-1, ROW)), TensorSpec("y", "FP32", (-1, ROW))


class Frontend:
    """Memory that is shared, and the engine's view of it."""

    def __init__(self, device: Device) -> None:
        file = make_memory(SIZE)
        self.own = np.frombuffer(mmap.mmap(file, SIZE), np.uint8)
        self.guest = Guest(file, SIZE)
        os.close(file)
        assert device.registered is not None
        device.registered.add(self.guest, *self.guest.span)

    def rows(
        self, places: list[int], seed: int
    ) -> tuple[list[memoryview], np.ndarray[tuple[int, int], np.dtype[np.uint8]]]:
        values = np.random.default_rng(seed).integers(0, 256, (len(places), ROW), dtype=np.uint8)
        for place, row in zip(places, values, strict=True):
            self.own[place * STEP :][:ROW] = row
        return [self.guest.view(place * STEP, ROW, Loan(0, lambda ticket: None)) for place in places], values


def model(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].float() * 2 + 1,)


@contextmanager
def bench(graphed: tuple[int, ...]) -> Iterator[tuple[Frontend, Runner]]:
    device = Device("cuda:0", threads=2)
    runner = Runner(model, device, [SPEC], [SUM], graphed)
    with device.stream():
        for rows in (8, 1):
            assert bool(runner.warm_up([(rows, ROW)], rows)) == (rows not in graphed)
        yield Frontend(device), runner


@pytest.mark.parametrize("graphed", [(), (1, 8)], ids=["plain", "graphs"])
def test_rows_are_fetched_from_where_they_lie(graphed: tuple[int, ...]) -> None:
    with bench(graphed) as (frontend, runner):
        for turn, (places, bucket) in enumerate([([3], 1), ([5, 0, 9], 8), ([1, 2, 3, 4, 5, 6, 7, 8], 8), ([4], 8)]):
            parts, values = frontend.rows(places, turn)
            laid = runner.lay([parts], [(bucket, ROW)])
            assert isinstance(laid.inputs[0], Scattered)
            (output,), phases = runner.compute(laid)
            got = np.frombuffer(output.data, np.float32).reshape(output.shape)
            np.testing.assert_array_equal(got[: len(places)], values.astype(np.float32) * 2 + 1)
            np.testing.assert_array_equal(got[len(places) :], 1.0)
            assert min(phases) >= 0
            assert phases[2] > 0, "the GPU's clock was asked once"


@pytest.mark.parametrize("graphed", [(), (1, 8)], ids=["plain", "graphs"])
def test_the_next_batch_is_fetched_while_one_computes(graphed: tuple[int, ...]) -> None:
    with bench(graphed) as (frontend, runner):
        launched, wanted = [], []
        for turn in range(20):
            places = [(8 * (turn % 3)) + row for row in range(8)]
            parts, values = frontend.rows(places, turn)
            laid: Laid = runner.lay([parts], [(8, ROW)])
            launched.append(runner.launch(laid))
            wanted.append(values)
            if turn:
                (output,), _ = runner.land(launched[turn - 1])
                got = np.frombuffer(output.data, np.float32).reshape(8, ROW)
                np.testing.assert_array_equal(got, wanted[turn - 1].astype(np.float32) * 2 + 1)
        runner.land(launched[-1])


def test_memory_is_let_go_with_its_frontend_and_another_may_follow() -> None:
    device = Device("cuda:0", threads=2)
    runner = Runner(model, device, [SPEC], [SUM])
    with device.stream():
        for turn in range(5):
            frontend = Frontend(device)
            parts, values = frontend.rows([0, 1], turn)
            (output,), _ = runner.run([parts], [(2, ROW)])
            got = np.frombuffer(output.data, np.float32).reshape(2, ROW)
            np.testing.assert_array_equal(got, values.astype(np.float32) * 2 + 1)
            del frontend, parts
            assert repr(device.registered) == "<Registered 0 pieces>"
