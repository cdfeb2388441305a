"""Folders of a service below the system's temporary one, which are gone after it, however it ends.

Knows nothing of what lies in them. A service that ends in order removes its own; what one left that was killed, the
next to start removes: it finds that nobody holds the lock in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

PREFIX = "torchere-"
OWNER = "owner"  # a file that its process holds locked for as long as it lives


class Scratch:
    """One such folder. `part` has folders in it for processes that may be killed, to be emptied after them."""

    def __init__(self, purpose: str = "", within: Path | None = None) -> None:
        within = within or Path(tempfile.gettempdir())
        remove_orphans(within)
        self.path, self._lock = _make(f"{PREFIX}{purpose}", within)

    def __repr__(self) -> str:
        return f"<Scratch {self.path}>"

    def part(self, name: str) -> dict[str, str]:
        """The environment of a process that is to leave its temporary files in the part `name`."""
        self.empty(name)
        return {"TMPDIR": str(self.path / name)}

    def empty(self, name: str) -> None:
        """Remove what a process left in its part."""
        shutil.rmtree(self.path / name, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):  # the service has ended meanwhile
            (self.path / name).mkdir(mode=0o700, exist_ok=True)

    def remove(self) -> None:
        """Take it all away. For good."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def remove_orphans(within: Path) -> None:
    """Remove the folders of this user's services that are no more. What is being made has no lock yet, and stays."""
    for folder in within.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is locked, another's, or goes just now
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid():
                _remove_unowned(folder)


def _remove_unowned(folder: Path) -> None:
    lock = os.open(folder / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _make(prefix: str, within: Path) -> tuple[Path, int]:
    """A new folder, and the lock in it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=within))
        lock = os.open(folder / OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_nlink:  # nobody took it for an orphan before it was locked
                return folder, lock
        os.close(lock)
