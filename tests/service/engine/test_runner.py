"""A runner lays one batch while it computes another, and what it gave stays as it was."""

import numpy as np
import pytest
import torch

from compiler.spec import TensorSpec
from service.runtime.device import Device
from service.runtime.runner import Model, Runner

SPEC = TensorSpec("x", "FP32", (-1, 2))


def runner(model: Model = lambda inputs: (2 * inputs[0],)) -> Runner:
    return Runner(model, Device("cpu", threads=1), [SPEC], [SPEC])


def rows(*values: float) -> list[list[memoryview]]:
    return [[memoryview(np.full((1, 2), value, np.float32).tobytes()) for value in values]]


def read(outputs: object) -> list[float]:
    return np.frombuffer(outputs[0].data, np.float32).tolist()  # type: ignore[index]


def test_a_batch_is_laid_while_another_waits_to_run() -> None:
    subject = runner()
    first = subject.lay(rows(1), [(1, 2)])
    second = subject.lay(rows(2, 3), [(4, 2)])
    assert read(subject.compute(first)[0]) == [2, 2]
    third = subject.lay(rows(5), [(1, 2)])
    assert read(subject.compute(second)[0]) == [4, 4, 6, 6, 0, 0, 0, 0]
    assert read(subject.compute(third)[0]) == [10, 10]


def test_memory_is_free_again_after_a_failure() -> None:
    def refuses(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        raise ValueError("no")

    subject = runner(refuses)
    for _ in range(3):
        with pytest.raises(ValueError, match="no"):
            subject.run(rows(1), [(1, 2)])
        with pytest.raises(ValueError, match="different structures"):
            subject.run(rows(1, 2), [(1, 2)])


def test_an_output_that_is_an_input_is_not_overwritten_by_the_next_batch() -> None:
    subject = runner(lambda inputs: (inputs[0],))
    outputs, _ = subject.run(rows(1), [(1, 2)])
    subject.run(rows(9), [(1, 2)])
    assert read(outputs) == [1, 1]


@pytest.mark.parametrize("kind", [bytes, bytearray], ids=["read-only", "writable"])
def test_rows_of_a_large_batch_lie_in_order_and_what_they_do_not_fill_is_zero(kind: type) -> None:
    spec = TensorSpec("x", "FP32", (-1, 50_000))
    subject = Runner(lambda inputs: (inputs[0] + 0,), Device("cpu", threads=1), [spec], [spec])
    for values in ([1, 2, 3, 4], [5, 6]):
        parts = [memoryview(kind(np.full((1, 50_000), value, np.float32).tobytes())) for value in values]
        (output,), _ = subject.run([parts], [(4, 50_000)])
        got = np.frombuffer(output.data, np.float32).reshape(output.shape)
        assert got.min(axis=1).tolist() == got.max(axis=1).tolist() == [*values, 0, 0][:4]
