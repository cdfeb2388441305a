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


class Usage:
    """What `pid` and the descendants that it has now use, all threads, user and system; it only grows."""

    def __init__(self, pid: int, proc: Path = PROC) -> None:
        self._proc = proc
        self._ticks = dict.fromkeys(family(pid, proc), 0)

    def read_ns(self) -> int:
        """The sum; of a process that has ended what was read last."""
        for pid in self._ticks:
            if fields := _stat(self._proc / str(pid)):
                self._ticks[pid] = int(fields[11]) + int(fields[12])
        return sum(self._ticks.values()) * NANOSECONDS // TICKS_PER_S


def _stat(folder: Path) -> list[str]:
    """The fields behind the name of the process, which may itself hold spaces; empty where it has ended."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
