"""2:4 sparsity, found and made, in modules, TorchScript and programs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compiler.errors import BuildFailed
from compiler.jobs import Interface, Place
from compiler.load import Opened
from compiler.quantize import quantize
from compiler.quantize.sparsity import find_sparsity, is_two_of_four, prune, prune_weight
from compiler.spec import Options, Rung, TensorSpec

RUNG = Rung("torchscript", "fp32", "2:4")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)).eval()


def test_the_two_largest_of_each_four_input_channels_stay() -> None:
    weight = torch.tensor([[1.0, -3.0, 2.0, 0.5, -8.0, 5.0, 6.0, 7.0]])
    assert prune_weight(weight).tolist() == [[0, -3, 2, 0, -8, 0, 0, 7]]
    kernel = weight.reshape(1, 8, 1, 1).repeat(2, 1, 3, 3)
    pruned = prune_weight(kernel)
    assert pruned.shape == kernel.shape
    assert torch.equal(pruned[:, :, 1, 2], prune_weight(weight).repeat(2, 1))
    assert is_two_of_four(pruned)
    assert not is_two_of_four(kernel)
    assert is_two_of_four(prune_weight(pruned))


def test_pruning_leaves_the_model_as_it_was_and_skips_what_has_no_fours() -> None:
    model = network()
    before = find_sparsity(model)
    pruned = prune(model)
    assert find_sparsity(model) == before
    assert [(entry.layer, entry.shape, entry.is_two_of_four) for entry in before] == [
        ("0", (8, 3, 3, 3), False),
        ("2", (8, 8, 3, 3), False),
        ("4", (4, 128), False),
    ]
    assert [(entry.is_two_of_four, entry.zeros) for entry in find_sparsity(pruned)] == [
        (False, 0.0),
        (True, 0.5),
        (True, 0.5),
    ]


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
def test_every_kind_of_source_is_reported_and_pruned(place: Place) -> None:
    interface = Interface((TensorSpec("x", "FP32", (-1, 3, 8, 8)),), (TensorSpec("y", "FP32", (-1, 4)),), 4, (1, 4))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    program = torch.export.export(network(), (x,))
    sources = [
        Opened("python", network()),
        Opened("torchscript", torch.jit.trace(network(), x)),
        Opened("pt2", program.module(check_guards=False), program),
    ]
    answers = []
    for opened in sources:
        assert [entry.is_two_of_four for entry in find_sparsity(opened.module)] == [False] * 3, opened.kind
        pruned = quantize(opened, interface, place, RUNG, Options(sparsity="prune"))
        assert [entry.is_two_of_four for entry in find_sparsity(pruned.module)] == [False, True, True], opened.kind
        answers.append(pruned.module(x))
    assert not torch.allclose(answers[0], network()(x), rtol=1e-3)
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0])


def test_a_model_without_fours_is_not_pruned(place: Place) -> None:
    interface = Interface((TensorSpec("x", "FP32", (-1, 3)),), (TensorSpec("y", "FP32", (-1, 2)),), 4, (1, 4))
    with pytest.raises(BuildFailed, match="no Linear or convolution has input channels in fours"):
        quantize(Opened("python", nn.Linear(3, 2)), interface, place, RUNG, Options(sparsity="prune"))
