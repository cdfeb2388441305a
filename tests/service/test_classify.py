"""Classification: the largest values, with index and label, as the protocol's strings."""

import numpy as np
import pytest

from service.classify import classify
from service.errors import InvalidInput
from service.tensors import Tensor, pack_bytes, unpack_bytes


def scores(*rows: list[float]) -> Tensor:
    array = np.array(rows, np.float32)
    return Tensor("y", "FP32", array.shape, array.tobytes())


def test_each_row_of_a_batch_has_its_own_classes() -> None:
    output = classify(scores([0.5, 2.5, 1.0], [3.0, 0.0, -1.0]), 2, ("a", "b"), batched=True)
    assert output.shape == (2, 2)
    assert unpack_bytes(output.data, 4) == [b"2.500000:1:b", b"1.000000:2", b"3.000000:0:a", b"0.000000:1:b"]


def test_more_classes_than_values_are_all_of_them() -> None:
    assert classify(scores([1.0, 2.0]), 9, (), batched=True).shape == (1, 2)


def test_equal_values_keep_their_order() -> None:
    assert unpack_bytes(classify(scores([1.0, 1.0]), 2, (), batched=True).data, 2) == [b"1.000000:0", b"1.000000:1"]


def test_without_batch_dimension_there_is_one_row() -> None:
    assert classify(scores([1.0, 2.0]), 1, (), batched=False).shape == (1,)


def test_text_cannot_be_classified() -> None:
    with pytest.raises(InvalidInput, match="cannot be classified"):
        classify(Tensor("y", "BYTES", (1,), pack_bytes([b"x"])), 1, (), batched=True)


def test_an_answer_larger_than_the_bound_is_refused() -> None:
    wide = Tensor("y", "UINT8", (2, 600_000), bytes(1_200_000))
    with pytest.raises(InvalidInput, match="too large"):
        classify(wide, 600_000, (), batched=True)
