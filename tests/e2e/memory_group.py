"""A bound on a process's memory that the kernel keeps: who goes beyond it is killed, as on a machine that is full.

Control groups, version 1 or 2, below that of the tests. Whoever may make none skips the test that asks for it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")
LEAVE_S = 10.0  # a group can be removed when those in it have ended


class MemoryGroup:
    """`kills()`: how often the kernel has killed for memory in it."""

    def __init__(self, folder: Path, events: str) -> None:
        self.folder = folder
        self._events = events

    def kills(self) -> int:
        lines = (self.folder / self._events).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


@contextlib.contextmanager
def memory_group(pid: int, byte_limit: int) -> Iterator[MemoryGroup]:
    """`pid` may take so many bytes more than it has already."""
    folder, limit, events = _place()
    try:
        folder.mkdir()
        (folder / limit).write_text(str(byte_limit))
        (folder / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"no control group may be made here: {error}")
    try:
        yield MemoryGroup(folder, events)
    finally:
        _remove(folder)


def _place() -> tuple[Path, str, str]:
    """The group to be, its file of the limit and that of events."""
    own = dict(line.split(":")[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    name = f"torchere-{os.getpid()}"
    if "memory" in own:
        return ROOT / "memory" / own["memory"].lstrip("/") / name, "memory.limit_in_bytes", "memory.oom_control"
    return ROOT / own.get("", "").lstrip("/") / name, "memory.max", "memory.events"


def _remove(folder: Path) -> None:
    """Whoever is left in it goes back to where the tests are."""
    deadline = time.monotonic() + LEAVE_S
    while folder.exists():
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (folder.parent / "cgroup.procs").write_text(pid)
        try:
            folder.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{folder} stays"
            time.sleep(0.05)
