"""Fails where a value is negative, ends its process where one is 666."""

import os
import signal
import time

import torch


class Poison(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == 666).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        if bool((x < 0).any()):
            raise ValueError("a value is negative")
        time.sleep(0.05)  # long enough that requests which arrive together share a batch
        return x + 1


def create_model() -> torch.nn.Module:
    return Poison()
