from __future__ import annotations

import torch

from compiler.accuracy import can_be_classified, measure_accuracy
from compiler.cases import read_samples_case, store_samples_case
from compiler.golden import cycle_rows
from compiler.jobs import Interface
from compiler.race import find_hopeless
from compiler.spec import TensorSpec

X = TensorSpec("x", "FP32", (-1, 3))
INTERFACE = Interface((X,), (X,), 2, (1, 2))


def test_accuracy_counts_rows_over_batches_of_at_most_the_largest_bucket() -> None:
    seen = []

    def model(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(len(inputs[0]))
        return inputs

    scores = torch.eye(3)[[0, 1, 2, 0, 1]]
    labels = torch.tensor([0, 1, 2, 1, 1])
    assert measure_accuracy(model, (scores,), labels, INTERFACE, "cpu") == 0.8
    assert seen == [2, 2, 1]


def test_labels_that_say_nothing_of_the_outputs_are_found() -> None:
    assert can_be_classified((torch.zeros(2, 3),), torch.tensor([0, 2])) == ""
    assert "[rows, classes]" in can_be_classified((torch.zeros(2, 3, 4),), torch.tensor([0]))
    assert "there are 3 classes" in can_be_classified((torch.zeros(2, 3),), torch.tensor([3]))


def test_samples_survive_the_way_through_a_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    inputs = (torch.rand(4, 3), torch.arange(4))
    store_samples_case(tmp_path / "samples.safetensors", inputs, torch.tensor([1, 0, 1, 0]))
    again, labels = read_samples_case(str(tmp_path / "samples.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(inputs, again, strict=True))
    assert labels.tolist() == [1, 0, 1, 0]


def test_rows_begin_again_where_they_run_out() -> None:
    assert cycle_rows((torch.arange(3),), 5)[0].tolist() == [0, 1, 2, 0, 1]
    assert cycle_rows((torch.arange(3),), 0)[0].tolist() == [0, 1, 2]


def test_only_what_has_no_chance_leaves_the_race() -> None:
    assert find_hopeless({"a": 1.0, "b": 2.9, "c": 3.0}) == {"c"}
    assert find_hopeless({"a": 0.0, "b": 0.0}) == set()
