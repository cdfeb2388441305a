from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compiler.golden import concrete_shape, random_inputs
from compiler.spec import TensorSpec, Tolerance
from compiler.verify import find_difference, measure_error

SPECS = (TensorSpec("y", "FP32", (-1, 2)),)


def difference(output: Tensor, reference: Tensor) -> str:
    return find_difference(SPECS, (output,), (reference,), Tolerance())[1]


def test_equal_is_equal_where_both_are_not_finite() -> None:
    tensor = torch.tensor([[1.0, float("nan")], [float("-inf"), 2.0]])
    assert difference(tensor, tensor.clone()) == ""


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (torch.ones(3, 2), "shape [3, 2], in the reference [2, 2]"),
        (torch.ones(2, 2, dtype=torch.float64), "is FP64, in the reference FP32"),
        (torch.tensor([[1.0, float("nan")], [1.0, 1.0]]), "has NaN at 1 of 4"),
        (torch.tensor([[1.0, float("inf")], [1.0, 1.0]]), "has infinity at 1 of 4"),
        (torch.full((2, 2), 1.01), "differs from the reference by 0.01"),
    ],
)
def test_every_kind_of_difference_has_its_sentence(output: Tensor, sentence: str) -> None:
    assert sentence in difference(output, torch.ones(2, 2))


def test_one_wrong_element_in_many_is_found_by_the_largest_difference() -> None:
    reference = torch.ones(10_000, 2)
    output = reference.clone()
    output[0, 0] = 1.005
    assert "at most 0.005" in difference(output, reference)


def test_rounding_is_within_tolerance() -> None:
    reference = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert difference(reference * (1 + 1e-6), reference) == ""


def test_the_owner_of_a_model_may_allow_more() -> None:
    reference = torch.ones(2, 2)
    assert find_difference(SPECS, (reference * 1.01,), (reference,), Tolerance(0.1, 0.1))[1] == ""


def test_against_nothing_but_zeros_the_difference_is_absolute() -> None:
    error = measure_error("y", torch.full((1, 4), 0.5), torch.zeros(1, 4))
    assert (error.relative_l2, error.max_abs) == (1.0, 0.5)


def test_a_missing_output_is_a_difference() -> None:
    assert find_difference(SPECS, (), (torch.ones(1),), Tolerance())[1] == "it returns 0 outputs, the reference 1"


def test_golden_inputs_are_the_same_every_time_and_within_their_range() -> None:
    specs = (
        TensorSpec("a", "FP32", (-1, 5), range=(2.0, 3.0)),
        TensorSpec("b", "INT64", (-1,)),
        TensorSpec("c", "BOOL", (-1,)),
    )
    one, two = random_inputs(specs, 50, 1), random_inputs(specs, 50, 1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert one[0].min() >= 2.0
    assert one[0].max() <= 3.0
    assert set(one[1].tolist()) == {0, 1}
    assert one[2].dtype == torch.bool


def test_open_dimensions_take_their_example_and_one_more() -> None:
    spec = TensorSpec("ids", "INT64", (-1, -1, 4), example_shape=(-1, 16, 4))
    assert concrete_shape(spec, 3) == (3, 16, 4)
    assert concrete_shape(spec, 3, wider=True) == (3, 17, 4)
    assert concrete_shape(TensorSpec("x", "FP32", (-1,)), 0) == (32,)
