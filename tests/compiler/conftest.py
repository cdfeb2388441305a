"""What the compiler's tests share: a place for model files, a target, a cache, an attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compiler import Artifact, Cache, Options, compile, find_source
from compiler.spec import Target
from compiler.target import detect_target
from tests.compiler.attempts import FAST

LINEAR = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        return torch.relu(self.layer(x))

def create_model():
    return Tiny()
"""


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def target() -> Target:
    return detect_target("cpu")


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """`write_model(text)` -> the folder of a model whose model.py is `text`."""

    def write(text: str = LINEAR) -> Path:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "model.py").write_text(text)
        return folder

    return write


@pytest.fixture
def attempt(write_model: Callable[..., Path], target: Target, cache: Cache) -> Callable[..., Artifact]:
    """`attempt(text, options)`: compile a model.py of that text."""

    def compile_text(text: str, options: Options = FAST) -> Artifact:
        return compile(find_source(write_model(text)), options, target, cache)

    return compile_text
