"""Marks artifacts that a process serves, so that no other process removes them: shared locks, gone with their holder.

Knows nothing of artifacts: keys only. `cache.py` marks what it hands out, and asks before it evicts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path


class Uses:
    """`uses.mark(key)` lasts until `release(key)`, or until this process ends in whatever way.

    Where the folder cannot be written or its filesystem has no locks, nothing is marked: then only this process
    knows what it uses.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int | None] = {}  # key -> descriptor of the locked file
        self._guard = threading.Lock()

    def __repr__(self) -> str:
        return f"<Uses {len(self._held)} marked>"

    def mark(self, key: str) -> bool:
        """Note that `key` is used here; False where it was noted before. Waits while another process evicts it."""
        with self._guard:
            if key in self._held:
                return False
            self._held[key] = self._lock(key, fcntl.LOCK_SH)
            return True

    def release(self, key: str) -> None:
        """It is used here no longer."""
        with self._guard:
            descriptor = self._held.pop(key, None)
        if descriptor is not None:
            os.close(descriptor)

    def is_used(self, key: str) -> bool:
        """Whether any process, this one included, uses `key` now."""
        with self.evicting(key) as is_free:
            return not is_free

    @contextlib.contextmanager
    def evicting(self, key: str) -> Iterator[bool]:
        """True where nobody uses `key`; nobody begins to inside the block."""
        if key in self._held:
            yield False
            return
        try:
            descriptor = self._lock(key, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _lock(self, key: str, kind: int) -> int | None:
        """The locked file; None where there can be none. Raises BlockingIOError where somebody else has it."""
        try:
            descriptor = os.open(self._folder / f"{key}.use", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:  # ENOLCK and the like: a filesystem without locks
            os.close(descriptor)
            return None
        return descriptor
