"""How many processor cores this process may use: those it is bound to, and no more than its container's quota.

Knows nothing of what they are used for. `settings.py` divides them.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def available_cores(control_groups: Path = CONTROL_GROUPS) -> int:
    """At least 1. A quota of 1.5 cores counts as 2: threads may wait a little, a core should not idle."""
    bound = len(os.sched_getaffinity(0))
    quota = read_quota(control_groups)
    return max(1, min(bound, math.ceil(quota))) if quota is not None else bound


def read_quota(control_groups: Path) -> float | None:
    """The container's quota in cores, None where there is none; knows version 2 (cpu.max) and version 1 (cpu.cfs_*)."""
    try:
        if (control_groups / "cpu.max").is_file():
            quota, period = (control_groups / "cpu.max").read_text().split()
        else:
            quota = (control_groups / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (control_groups / "cpu" / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):  # no control groups here, or not readable: nothing limits us that we know of
        return None
