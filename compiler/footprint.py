"""Says how much memory this process holds on a device.

Knows nothing of models. `judge.py` takes the difference around loading and running one.
"""

from __future__ import annotations

import os
from pathlib import Path


def used_bytes(device: str) -> int:
    """Bytes in use on the device: of a GPU by anyone, of a CPU resident in this process; 0 where that is not known."""
    if device != "cpu":
        import torch

        free, total = torch.cuda.mem_get_info(device)
        return total - free
    statm = Path("/proc/self/statm")  # Linux only; elsewhere no figure is better than the peak of getrusage
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
