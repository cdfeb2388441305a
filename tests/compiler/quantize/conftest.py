"""What the tests of quantisation share: an interface, small networks, and the digits model with its data."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compiler.jobs import Interface, Place
from compiler.load import Opened
from compiler.spec import TensorSpec

ROOT = Path(__file__).parents[3]
DIGITS = ROOT / "models" / "digits"

PIXELS = TensorSpec("image", "UINT8", (-1, 3, 8, 8), range=(0, 255))
SCORES = TensorSpec("scores", "FP32", (-1, 4))


class Net(nn.Module):
    """Everything that matters to a precision: integers in, one ReLU6 used twice, a residual sum, constants."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.clamp = nn.ReLU6()
        self.head = nn.Linear(8, 4)
        self.register_buffer("mean", torch.tensor([127.0, 100.0, 90.0]).reshape(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        x = self.clamp(self.norm(self.first((image.float() - self.mean) / 50.0)))
        x = self.clamp(self.second(x)) + x
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


@pytest.fixture
def interface() -> Interface:
    return Interface((PIXELS,), (SCORES,), 8, (1, 8))


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=generator)


@pytest.fixture
def net() -> Opened:
    return Opened("python", Net().eval().requires_grad_(False))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path), str(tmp_path), "cpu")


@pytest.fixture(scope="session")
def digits_data() -> tuple[Tensor, Tensor]:
    """The held-out digits and what they are."""
    script: dict[str, Any] = runpy.run_path(str(DIGITS / "train.py"))
    _, _, images, labels = script["split_digits"]()
    return images, labels


@pytest.fixture(scope="session")
def digits_qat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digits model that was trained with fake quantisers, as `models/digits/qat.py` writes it."""
    out = tmp_path_factory.mktemp("digits_qat")
    subprocess.run([sys.executable, DIGITS / "qat.py", out], check=True, capture_output=True, timeout=280)
    return out / "1"


@pytest.fixture
def error_of() -> Callable[[Tensor, Tensor], float]:
    """Relative L2."""
    return lambda answer, wanted: ((answer - wanted).norm() / wanted.norm()).item()
