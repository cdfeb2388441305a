"""CPU time and memory of the parent's process and all its descendants, read from Linux; elsewhere there is nothing.

Knows processes by what they run, and by the names that the parent has for its children. `serve.py` asks once a second.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from service import __version__
from service.observe import metrics
from service.observe.adding import series
from service.observe.store import Store

PROC = Path("/proc")
USER_AT, SYSTEM_AT, RESIDENT_AT = 11, 12, 21  # words of /proc/PID/stat after the name in brackets
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
STEPS, BUILDER = "steps", "builder"


class ProcessWatch:
    """`watch.look({pid: "frontend 0"})` counts what was used since it last looked."""

    def __init__(self, store: Store, root: int | None = None, proc: Path = PROC) -> None:
        self._store = store
        self._root = root or os.getpid()
        self._proc = proc
        self._ticks: dict[int, int] = {}
        self._names: set[str] = set()
        store.absorb_dead(metrics.merge_of)  # of the service that counted in this folder before
        series(store, metrics.BUILD, __version__).set(1)

    def died(self, name: str) -> None:
        """A child ended that should not have: what it counted is kept."""
        series(self._store, metrics.RESTARTS, name.partition(" ")[0]).add(1)
        self._store.absorb_dead(metrics.merge_of)

    def look(self, names: Mapping[int, str]) -> None:
        """Whoever has gone by the time is looked at is counted up to the last look."""
        resident: dict[str, int] = defaultdict(int)
        alive: dict[str, int] = defaultdict(int)
        ticks = {}
        for pid, name in self._family(names):
            try:
                words = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks[pid] = int(words[USER_AT]) + int(words[SYSTEM_AT])
            used = max(ticks[pid] - self._ticks.get(pid, 0), 0)
            series(self._store, metrics.CPU_SECONDS, name).add(used * TICK_NS)
            resident[name] += int(words[RESIDENT_AT]) * PAGE_BYTES
            alive[name] += 1
        self._ticks = ticks
        self._names |= alive.keys()
        for name in self._names:
            series(self._store, metrics.RESIDENT, name).set(resident[name])
            series(self._store, metrics.PROCESSES, name).set(alive[name])
            series(self._store, metrics.RESTARTS, name.partition(" ")[0])  # 0 is told too, or the first is no increase

    def _family(self, names: Mapping[int, str]) -> list[tuple[int, str]]:
        """Every descendant with its name: the parent's own, else by what it runs, else that of its own parent."""
        found, waiting = [], [(self._root, "parent")]
        while waiting:
            pid, inherited = waiting.pop()
            name = names.get(pid) or (inherited if pid == self._root else self._kind(pid) or inherited)
            found.append((pid, name))
            waiting += [(child, name) for child in self._children(pid)]
        return found

    def _children(self, pid: int) -> list[int]:
        children = []
        for path in (self._proc / str(pid) / "task").glob("*/children"):
            try:
                children += [int(word) for word in path.read_text().split()]
            except OSError:
                continue
        return children

    def _kind(self, pid: int) -> str:
        try:
            command = (self._proc / str(pid) / "cmdline").read_bytes()
        except OSError:
            return ""
        if b"service.engine.steps" in command:
            return STEPS
        return BUILDER if b"compiler." in command else ""
