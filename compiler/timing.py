"""Times one call on one device, until the device is done.

Knows nothing of candidates. `race.py` interleaves the calls of several.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def time_call(call: Callable[[], object], device: str) -> float:
    """Milliseconds of one call by the host's clock, with the device idle before and after."""
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return (time.perf_counter() - started) * 1e3


def synchronize(device: str) -> None:
    """Wait for the device's work; a CPU has none outstanding."""
    if device != "cpu":
        torch.cuda.synchronize(device)
