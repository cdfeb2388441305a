"""TorchScript files as sources: converted to an exported program where torch can, else served as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compiler import Cache, Options, Target, backends, compile, find_source
from compiler.errors import LowerFailed
from compiler.jobs import Interface
from compiler.load import open_model
from compiler.lower import lower
from compiler.spec import TensorSpec

pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")  # the files are made here
X = TensorSpec("x", "FP32", (-1, 4))
INTERFACE = Interface((X,), (TensorSpec("y", "FP32", (-1, 3)),), 4, (1, 2, 4))


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).reshape(x.shape[0], 3)


class Looping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 3)])
        self.scale: float = 0.5

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) * self.scale
        if self.training:
            x = x + 1
        return x


class Branching(nn.Module):
    """A decision on the values: each row decides by a reduction that is scripted as an `if`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if bool(self.layer.weight.sum() > 1e6):
            return self.layer(x) * 2
        return self.layer(x)


class Halving(nn.Module):
    """A loop whose length only the values know, which no exported program can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        scale = self.layer.weight.abs().sum()
        while bool(scale > 0.1):
            scale = scale / 2
        return y * scale


def save(module: nn.Module, how: str, folder: Path) -> nn.Module:
    module = module.eval()
    script = torch.jit.script(module) if how == "scripted" else torch.jit.trace(module, torch.randn(2, 4))
    script.save(folder / "model.pt")
    return module


@pytest.mark.parametrize(
    ("module", "how"),
    [(Plain, "traced"), (Plain, "scripted"), (Looping, "traced"), (Looping, "scripted"), (Branching, "scripted")],
)
def test_a_script_becomes_a_program_with_a_dynamic_batch(tmp_path: Path, module: type[nn.Module], how: str) -> None:
    original = save(module(), how, tmp_path)
    program = lower(open_model(tmp_path, "cpu"), INTERFACE, "cpu")
    for rows in (1, 2, 3, 4):
        x = torch.randn(rows, 4)
        torch.testing.assert_close(program.module()(x)[0], original(x))


def test_a_script_that_no_program_can_hold_is_served_as_torchscript(
    tmp_path: Path, target: Target, cache: Cache
) -> None:
    original = save(Halving(), "scripted", tmp_path)
    with pytest.raises(LowerFailed, match=r"torch\.export cannot capture the model"):
        lower(open_model(tmp_path, "cpu"), INTERFACE, "cpu")
    options = Options(inputs=(X,), max_batch_size=4, backends=("torchscript",))
    artifact = compile(find_source(tmp_path), options, target, cache)
    assert artifact.manifest.backend == "torchscript"
    x = torch.randn(3, 4)
    torch.testing.assert_close(backends.load(artifact.folder, artifact.manifest, "cpu")((x,))[0], original(x))
