"""What has changed in a repository since it was last looked at: models that came, that changed, that went.

Looks at names, sizes and times, opens nothing. `model_control.py` asks every so often and loads what `changes` names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Look = tuple[tuple[str, int, int, int], ...]  # of every file: path, size, time of change in ns, inode


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of models."""

    came: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    went: tuple[str, ...] = ()


def look(folder: Path) -> Look:
    """All files of one model. What goes while it is looked at is left out."""
    found = []
    for parent, folders, names in os.walk(folder):
        # A mounted volume changes where its links lead.
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for path in (Path(parent) / name for name in (*names, *links)):
            try:
                status = path.stat()
            except OSError:
                continue
            found.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(sorted(found))


def changes(served: Mapping[str, Look], before: Mapping[str, Look], now: Mapping[str, Look]) -> Changes:
    """What differs from what is served, and lay the same at the last two looks: a copy that goes on is left alone."""
    steady = {name for name, files in now.items() if before.get(name) == files}
    return Changes(
        came=tuple(sorted(steady - served.keys())),
        changed=tuple(sorted(name for name in steady & served.keys() if served[name] != now[name])),
        went=tuple(sorted(served.keys() - now.keys() - before.keys())),
    )
