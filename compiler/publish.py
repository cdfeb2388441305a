"""Puts a folder in its place whole or not at all, and gives builders a folder of their own that disappears.

Knows nothing of keys' meaning or of locks: the caller holds them. `cache.py` publishes what was built, `shipping.py`
what it copies into a model repository.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Another host's unfinished build is a ruin after this: its lock may not reach us where a volume has none.
RUIN_S = 24 * 3600.0


@contextlib.contextmanager
def workspace(builds: Path, key: str) -> Iterator[Path]:
    """An empty folder to build `key` in, gone afterwards; what killed builders of the same key left goes first."""
    host = socket.gethostname().partition(".")[0]
    for other in builds.glob(f"{key}.*"):
        if _is_ruin(other, host):
            shutil.rmtree(other, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{key}.{host}.", dir=builds))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(made: Path, place: Path) -> None:
    """Move the folder `made` to `place`, its data on the disk before its name. Raises OSError where that is taken."""
    for path in sorted(made.rglob("*")):
        _flush(path)
    _flush(made)
    made.rename(place)
    _flush(place.parent)


def _is_ruin(folder: Path, host: str) -> bool:
    """Whether the builder of `folder` is gone: we hold its key's lock, which reaches at least over this host."""
    try:
        age_s = time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return False
    return folder.name.split(".")[1] == host or age_s > RUIN_S


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
