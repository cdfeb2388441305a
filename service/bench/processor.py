"""Processor time of processes, from /proc.

Knows nothing of load. `run.py` samples the server's while a level runs.
"""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
NANOSECONDS = 1_000_000_000


def family(pid: int, proc: Path = PROC) -> list[int]:
    """`pid` and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in proc.glob("[0-9]*"):
        fields = _stat(folder)
        if fields:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found.extend(children.get(each, ()))
    return found


def cpu_ns(pids: list[int], proc: Path = PROC) -> int:
    """What these processes have used, all threads, user and system; those that have ended count nothing."""
    ticks = 0
    for pid in pids:
        fields = _stat(proc / str(pid))
        if fields:
            ticks += int(fields[11]) + int(fields[12])
    return ticks * NANOSECONDS // TICKS_PER_S


def _stat(folder: Path) -> list[str]:
    """The fields behind the name of the process, which may itself hold spaces; empty where it has ended."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
