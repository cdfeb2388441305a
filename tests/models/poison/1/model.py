"""Fails where a value is negative, ends its process where one is 666 or 667, hangs where one is 668, and takes a lot of
memory where one is 665, more than there is where one is 664."""

import ctypes
import os
import signal
import time

import torch


class Poison(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if bool((x == 664).any()):
            torch.empty(1 << 50)
        if bool((x == 665).any()):
            list(map(torch.ones, [1 << 24] * 16))  # 1 GiB, used and given back
        if bool((x == 666).any()):
            os.kill(os.getpid(), signal.SIGKILL)
        if bool((x == 667).any()):
            ctypes.string_at(0)  # a segmentation fault
        if bool((x == 668).any()):
            ctypes.PyDLL(None).sleep(600)  # holding Python's lock: no other thread runs
        if bool((x < 0).any()):
            raise ValueError("a value is negative")
        time.sleep(0.05)  # long enough that requests which arrive together share a batch
        return x + 1


def create_model() -> torch.nn.Module:
    return Poison()
