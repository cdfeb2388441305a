"""Half precision: everything inside is cast, the border stays, and nothing overflows that did not before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from compiler.backends import torchscript
from compiler.jobs import Interface, Place
from compiler.load import Opened
from compiler.quantize import quantize
from compiler.spec import Options, Rung, TensorSpec

X = TensorSpec("x", "FP32", (-1, 4))
SMALL = Interface((X,), (TensorSpec("y", "FP32", (-1, 4)),), 8, (1, 8))

HALVES = pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])


def cast(opened: Opened, interface: Interface, place: Place, precision: str) -> Opened:
    return quantize(opened, interface, place, Rung("torchscript", precision), Options())


def inner_dtypes(opened: Opened, *inputs: Tensor) -> set[torch.dtype]:
    """The floating dtypes of what operators are given, casts apart."""
    assert isinstance(opened.module, fx.GraphModule)
    seen: set[torch.dtype] = set()

    class Watch(fx.Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if target is not torch.ops.aten.to.dtype:
                given = [value for value in args if isinstance(value, Tensor)]
                seen.update(value.dtype for value in given if value.is_floating_point())
            return super().call_function(target, args, kwargs)

    Watch(opened.module).run(*inputs)
    return seen


@HALVES
def test_a_network_from_bytes_to_scores(
    net: Opened,
    interface: Interface,
    place: Place,
    images: Tensor,
    error_of: Callable[[Tensor, Tensor], float],
    precision: str,
    dtype: torch.dtype,
) -> None:
    wanted = net.module(images[:8])
    half = cast(net, interface, place, precision)
    (answer,) = half.module(images[:8])
    assert answer.dtype == torch.float32
    assert 0 < error_of(answer, wanted) < 0.02
    assert inner_dtypes(half, images[:8]) == {dtype}


class Awkward(nn.Module):
    """Floats that are born without naming a dtype, a mask below the least fp16, a second output of integers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.arange(4) / 2
        bias = torch.zeros(4).masked_fill(torch.tensor([False, True, False, False]), -1e9)
        scores = torch.softmax(x + steps + bias, dim=1, dtype=torch.float32)
        return scores + torch.full((4,), 0.5), scores.argmax(1)


@HALVES
def test_what_becomes_a_float_inside_is_cast_as_well(place: Place, precision: str, dtype: torch.dtype) -> None:
    interface = Interface((X,), (TensorSpec("y", "FP32", (-1, 4)), TensorSpec("best", "INT64", (-1,))), 8, (1, 8))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    wanted = Awkward()(x)
    half = cast(Opened("python", Awkward()), interface, place, precision)
    scores, best = half.module(x)
    torch.testing.assert_close(scores, wanted[0], rtol=2e-2, atol=2e-2)
    assert scores.dtype == torch.float32
    assert torch.equal(best, wanted[1])
    assert inner_dtypes(half, x) == {dtype}


def test_a_weight_that_is_used_twice_stays_one(place: Place) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x))
            return y

    half = cast(Opened("python", Tied().eval().requires_grad_(False)), SMALL, place, "fp16")
    weights = [value for value in half.module.state_dict().values() if value.dim() == 2]
    assert {weight.dtype for weight in weights} == {torch.float16}
    assert len({weight.data_ptr() for weight in weights}) == 1


class Decides(nn.Module):
    """A decision on data, which torch.export refuses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y if y.sum() > 1e9 else y * 2


def test_a_model_that_cannot_be_exported_is_cast_as_a_module(place: Place) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    model = Decides().eval().requires_grad_(False)
    wanted = model(x)
    half = cast(Opened("python", model), SMALL, place, "bf16")
    (answer,) = half.module(x)
    assert model.layer.weight.dtype == torch.bfloat16
    torch.testing.assert_close(answer, wanted, rtol=3e-2, atol=3e-2)
    assert not torch.equal(answer, wanted)


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")  # the file is made here
def test_torchscript_and_programs_are_cast_alike(
    net: Opened, interface: Interface, place: Place, images: Tensor, error_of: Callable[[Tensor, Tensor], float]
) -> None:
    wanted = net.module(images[:8])
    program = torch.export.export(
        net.module, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},)
    )
    sources = [
        Opened("torchscript", torch.jit.trace(net.module, images[:2])),
        Opened("pt2", program.module(check_guards=False), program),
    ]
    for opened in sources:
        half = cast(opened, interface, place, "fp16")
        assert 0 < error_of(half.module(images[:8])[0], wanted) < 0.02, opened.kind
        assert inner_dtypes(half, images[:8]) == {torch.float16}


def test_torchscript_builds_it_and_keeps_sizes_open(
    interface: Interface, place: Place, tmp_path: Path, net: Opened, images: Tensor
) -> None:
    wanted = net.module(images[:5])
    half = cast(net, interface, place, "bf16")
    torchscript.build(half, interface, place, tmp_path, Rung("torchscript", "bf16"))
    (answer,) = torchscript.load(tmp_path, interface, "cpu")((images[:5],))
    torch.testing.assert_close(answer, wanted, rtol=5e-2, atol=5e-2)
