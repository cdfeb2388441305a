"""Keeps artifacts in a folder by their key: built once however many ask, published whole or not at all.

Knows nothing of what an artifact does: files, digests and locks only. `compile` in `__init__.py` asks it; `pipeline.py`
fills what it publishes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import msgspec

from compiler.errors import CacheUnusable
from compiler.manifest import MANIFEST_NAME, Manifest, read_manifest
from compiler.source import file_digest

LOCKS, BUILDS = ".locks", ".builds"
LOCK_POLL_S = 1.0  # how often a waiting process may tell that it waits, and be stopped
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class Entry(msgspec.Struct, frozen=True):
    """One artifact as the cache sees it; `last_used` in seconds since the epoch, `size` in bytes."""

    key: str
    folder: Path
    size: int
    last_used: float


class Cache:
    """Artifacts under `root/<key>/`. Safe for any number of processes and hosts that share the folder.

    `cache.get_or_build(key, build)` -> (folder, manifest, cached). The folder is made at the first build, for its owner
    only: an artifact is code.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"<Cache {self.root}>"

    def get_or_build(
        self,
        key: str,
        build: Callable[[Path], Path],
        *,
        is_current: Callable[[Manifest], bool] = lambda manifest: True,
        on_wait: Callable[[], None] = lambda: None,
    ) -> tuple[Path, Manifest, bool]:
        """The artifact of `key`: (folder, manifest, whether it was there already).

        `build(workspace)` makes it inside an empty folder that disappears afterwards, and returns the folder to
        publish; what it raises passes through. An artifact that is not `is_current` is built again. `on_wait` is called
        every second while another process builds the same key; it may raise. Raises CacheUnusable.
        """
        found = self._find_sound(key)
        if found is not None and is_current(found):
            return self.root / key, found, True
        with self._locked(key, on_wait):
            found = self._find_sound(key)  # somebody else may have built it while we waited
            if found is not None and is_current(found):
                return self.root / key, found, True
            if (self.root / key).exists():
                self._set_aside(key, "broken" if found is None else "outdated")
            manifest = self._build(key, build)
            return self.root / key, manifest, False

    def list(self) -> tuple[Entry, ...]:
        """Every artifact, the one used last first."""
        if not self.root.is_dir():
            return ()
        entries = []
        for manifest in self.root.glob(f"[0-9a-f]*/{MANIFEST_NAME}"):
            folder = manifest.parent
            if "." not in folder.name:
                entries.append(Entry(folder.name, folder, _folder_size(folder), folder.stat().st_mtime))
        return tuple(sorted(entries, key=lambda entry: entry.last_used, reverse=True))

    def verify(self, key: str) -> str | None:
        """What is wrong with an artifact, in a sentence; None: it is sound."""
        return find_fault(self.root / key, key)

    def prune(self, max_bytes: int) -> tuple[Entry, ...]:
        """Remove the artifacts longest unused until `max_bytes` suffice, and every one set aside; returns what went."""
        for aside in self.root.glob("[0-9a-f]*.*"):
            shutil.rmtree(aside, ignore_errors=True)
        gone = choose_evictions(self.list(), max_bytes)
        for entry in gone:
            with self._locked(entry.key, lambda: None):
                if (self.root / entry.key).exists():  # another prune may have been here
                    self._set_aside(entry.key, "evicted")  # renamed first, so that nobody reads half an artifact
        return gone

    def _find_sound(self, key: str) -> Manifest | None:
        folder = self.root / key
        if not folder.is_dir() or find_fault(folder, key) is not None:
            return None
        try:
            os.utime(folder)
        except OSError as error:
            if error.errno not in READ_ONLY:  # a cache shipped in an image cannot note its last use, and need not
                raise
        return read_manifest(folder)

    @contextlib.contextmanager
    def _locked(self, key: str, on_wait: Callable[[], None]) -> Iterator[None]:
        try:
            for folder in (self.root, self.root / LOCKS, self.root / BUILDS):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CacheUnusable(
                f"the cache folder {self.root} cannot be written ({error.strerror}): "
                "set another, or mend its permissions"
            ) from error
        lock = filelock.FileLock(self.root / LOCKS / f"{key}.lock", thread_local=False)
        while True:
            try:
                lock.acquire(timeout=LOCK_POLL_S)
                break
            except filelock.Timeout:
                on_wait()
            except OSError as error:
                raise CacheUnusable(f"{lock.lock_file} cannot be locked: {error.strerror}") from error
        try:
            yield
        finally:
            lock.release()

    def _build(self, key: str, build: Callable[[Path], Path]) -> Manifest:
        for stale in (self.root / BUILDS).glob(f"{key}.*"):  # of a builder that was killed: we hold its lock now
            shutil.rmtree(stale, ignore_errors=True)
        workspace = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self.root / BUILDS))
        try:
            made = build(workspace)
            fault = find_fault(made, key)
            assert fault is None, f"a new artifact must be sound: {fault}"
            manifest = read_manifest(made)
            _flush(made)
            made.rename(self.root / key)
            _flush_one(self.root)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
        return manifest

    def _set_aside(self, key: str, why: str) -> None:
        """Move an artifact out of the way; one found broken is kept for its owner to look at until the next prune."""
        aside = self.root / f"{key}.{why}-{time.time_ns()}"
        (self.root / key).rename(aside)
        if why != "broken":
            shutil.rmtree(aside, ignore_errors=True)


def find_fault(folder: Path, key: str) -> str | None:
    """What is wrong with the artifact in `folder`: a sentence, or None where every file is as its manifest says."""
    try:
        manifest = read_manifest(folder)
    except (OSError, msgspec.DecodeError) as error:
        return f"{folder / MANIFEST_NAME} cannot be read: {error}"
    if manifest.key != key:
        return f"{folder} holds the artifact of another key, {manifest.key}"
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST_NAME}
    listed = {entry.path for entry in manifest.files}
    if there != listed:
        return f"{folder} should hold other files: {', '.join(sorted(there ^ listed))}"
    for entry in manifest.files:
        path = folder / entry.path
        if path.stat().st_size != entry.size or file_digest(path) != entry.sha256:
            return f"{path} is not the file that was built"
    return None


def choose_evictions(entries: tuple[Entry, ...], max_bytes: int) -> tuple[Entry, ...]:
    """The entries to remove, longest unused first, so that the rest is at most `max_bytes`."""
    excess = sum(entry.size for entry in entries) - max_bytes
    chosen = []
    for entry in sorted(entries, key=lambda entry: entry.last_used):
        if excess <= 0:
            break
        chosen.append(entry)
        excess -= entry.size
    return tuple(chosen)


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _flush(folder: Path) -> None:
    """Everything in `folder` onto the disk, so that a rename never outlives the data."""
    for path in sorted(folder.rglob("*")):
        _flush_one(path)
    _flush_one(folder)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
