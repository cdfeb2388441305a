"""A small CNN for handwritten digits of 8x8 pixels.

Knows nothing of training or serving. `../train.py` makes the weights beside this file, `../model.yaml` declares it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BRIGHTEST = 16.0  # scikit-learn's digits count the ink in 4x4 blocks of bits: 0 to 16


class Digits(nn.Module):
    """`Digits()(image)`: FP32 [batch,1,8,8], values 0 to 16, to probabilities FP32 [batch,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"probabilities": torch.softmax(self.logits(image), dim=1)}

    def logits(self, image: Tensor) -> Tensor:
        """Before the softmax: what training compares with the labels."""
        logits: Tensor = self.layers(image / BRIGHTEST)
        return logits


def create_model() -> nn.Module:
    """The module without its weights, which the server takes from model.safetensors."""
    return Digits()
