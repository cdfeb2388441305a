"""The model that tests load, change and unload: it multiplies by a factor, which tells one version from another."""

from __future__ import annotations

import shutil
from pathlib import Path

MODEL = """
import torch


class Times(torch.nn.Module):
    def forward(self, x):
        return {{"y": x * {factor}}}


def create_model():
    return Times()
"""
CONFIG = """
trust: true
startup: wait
max_batch_size: 8
inputs:
  - {name: x, datatype: FP32, shape: [-1, 2]}
outputs:
  - {name: y, datatype: FP32, shape: [-1, 2]}
compile:
  backends: [eager]
"""


def code(factor: float) -> str:
    """Of its model.py."""
    return MODEL.format(factor=factor)


def write(repository: Path, name: str, version: int, factor: float, config: str = CONFIG) -> None:
    """The version's folder appears whole, as a careful copy makes it."""
    folder = repository / name / str(version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / "model.yaml").write_text(config)
    new = folder.parent / ".new"
    new.mkdir()
    (new / "model.py").write_text(code(factor))
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)
