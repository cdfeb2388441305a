"""Models in a model.py of a few lines, compiled with the backends that are quick. Not a test."""

from __future__ import annotations

import torch

from compiler import Artifact, Options, backends
from compiler.spec import TensorSpec

X = TensorSpec("x", "FP32", (-1, 4))
FAST = Options(inputs=(X,), max_batch_size=4, backends=("eager", "torchscript"))
MODULE = """
import os, signal, sys, time
import torch

class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4))

    def forward(self, x):
        {forward}

def create_model():
    {load}
    return Odd()
"""


def odd(forward: str = "return x * self.weight", load: str = "pass") -> str:
    """A model.py that does what is given as it runs or loads."""
    return MODULE.format(forward=forward, load=load)


def run(artifact: Artifact, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return backends.load(artifact.folder, artifact.manifest, "cpu")(inputs)


def outcomes(artifact: Artifact) -> dict[str, str]:
    return {rung.backend: rung.outcome for rung in artifact.manifest.ladder}
