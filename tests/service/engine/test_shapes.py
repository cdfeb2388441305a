"""Shapes that are easily forgotten, through queue, batch and runner: empty, scalar, a batch of single values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from compiler.spec import TensorSpec
from service.engine.messages import Infer, Result
from service.engine.models import ServedModel
from service.engine.served import Pending
from service.runtime.device import Device
from service.runtime.runner import Runner
from tests.fakes import FakeBatchCounter, FakeConnection, entry

Arrays = list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
Shape = tuple[int, ...]


def answers(
    shape: Shape, max_batch_size: int, function: Callable[[torch.Tensor], torch.Tensor], sent: Arrays
) -> Arrays:
    """What a model that takes `shape` answers to all of `sent` at once."""
    spec = TensorSpec("x", "FP32", shape)
    buckets = (1, max_batch_size) if max_batch_size else ()
    model = entry(
        inputs=(spec,), outputs=(TensorSpec("y", "FP32", shape),), max_batch_size=max_batch_size, buckets=buckets
    )
    device, connection = Device("cpu", threads=1), FakeConnection()
    runner = Runner(lambda inputs: (function(inputs[0]),), device, model.inputs, model.outputs)
    served = ServedModel(model, [runner], device, FakeBatchCounter())
    for number, array in enumerate(sent):
        rows = array.shape[0] if max_batch_size else 1
        message = Infer(number, "double", "1", rows, (array.shape,), (array.nbytes,))
        served.submit(Pending(message, [memoryview(array.tobytes())], connection), 0.0)  # type: ignore[arg-type]
    served.start(on_broken=pytest.fail)
    served.close()
    found = []
    for number in range(len(sent)):
        result, blobs = connection.answers[number]
        assert isinstance(result, Result), result
        found.append(np.frombuffer(blobs[0], np.float32).reshape(result.shapes[0]))
    return found


@pytest.mark.parametrize(
    ("shape", "max_batch_size", "sizes"),
    [
        ((-1, -1), 4, [(1, 0), (2, 0), (1, 3)]),
        ((-1, 2, -1), 4, [(2, 2, 0), (2, 2, 5)]),
        ((-1,), 4, [(1,), (3,)]),
        ((), 0, [(), ()]),
        ((-1,), 0, [(0,), (5,)]),
        ((-1, -1), 0, [(0, 3), (2, 0)]),
    ],
)
def test_every_shape_comes_back_as_it_went(shape: Shape, max_batch_size: int, sizes: list[Shape]) -> None:
    sent = [np.full(size, number + 1, np.float32) for number, size in enumerate(sizes)]
    for array, answer in zip(sent, answers(shape, max_batch_size, lambda x: x + 1, sent), strict=True):
        np.testing.assert_array_equal(answer, array + 1)


def test_not_a_number_spoils_its_own_row_only() -> None:
    sent = [np.array([[np.nan]], np.float32), np.array([[np.inf]], np.float32), np.array([[1]], np.float32)]
    found = answers((-1, 1), 4, lambda x: 2 * x, sent)
    np.testing.assert_array_equal(np.concatenate(found), [[np.nan], [np.inf], [2]])
