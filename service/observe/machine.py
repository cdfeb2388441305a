"""The machine's own CPU and memory, asked of Linux when the sidecar is asked; elsewhere there is nothing to tell.

Knows nothing of processes: `processes.py` tells what each of ours uses.
"""

from __future__ import annotations

from pathlib import Path

from service.observe import metrics
from service.observe.merge import Merged, words_of

PROC = Path("/proc")
IDLE_AT, IOWAIT_AT, USER_FIELDS = 3, 4, 8  # of the line `cpu` in /proc/stat; guests are counted in user already
KIB = 1024


class Machine:
    """Remembers how long the CPUs had been busy when it was last asked."""

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._before = (0, 0)

    def add_to(self, merged: Merged) -> None:
        """Put what is known now among what was counted."""
        try:
            ticks = [int(word) for word in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:]]
            lines = (line.split() for line in (self._proc / "meminfo").read_text().splitlines())
            memory = {words[0].rstrip(":"): int(words[1]) * KIB for words in lines}
            total, available = memory["MemTotal"], memory["MemAvailable"]
        except (OSError, KeyError, ValueError, IndexError):
            return
        whole = sum(ticks[:USER_FIELDS])
        idle = ticks[IDLE_AT] + ticks[IOWAIT_AT]
        passed, rested = whole - self._before[0], idle - self._before[1]
        self._before = whole, idle
        if passed > 0:
            share = min(max(1 - rested / passed, 0.0), 1.0)
            merged[metrics.HOST_CPU.name] = words_of({(): round(share / metrics.HOST_CPU.scale)})
        merged[metrics.HOST_TOTAL.name] = words_of({(): total})
        merged[metrics.HOST_USED.name] = words_of({(): total - available})
