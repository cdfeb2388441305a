"""Zip files as torch writes them, and as somebody with bad intentions would: `forge` changes members of a real one."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

Change = Callable[[bytes], bytes]


def forge(original: Path, forged: Path, changes: dict[str, Change]) -> Path:
    """A copy in which each named member (below the top folder) is what its change makes of it; new ones are added."""
    left = dict(changes)
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(forged, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            change = left.pop(name.partition("/")[2], bytes)
            new.writestr(zipfile.ZipInfo(name), change(old.read(name)))
        for name, change in left.items():
            new.writestr(zipfile.ZipInfo(f"{root}/{name}"), change(b""))
    return forged


def write_zip(path: Path, *members: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    """A zip of these members, all below `m/` where only a name is given."""
    with zipfile.ZipFile(path, "w") as new:
        for info, data in members:
            new.writestr(zipfile.ZipInfo(f"m/{info}") if isinstance(info, str) else info, data)
    return path
