"""Keeps artifacts in a folder by their key: built once however many ask, published whole or not at all.

Knows nothing of what an artifact does: files, digests and locks only. `compile` in `__init__.py` asks it; `pipeline.py`
fills what it publishes, `faults.py` says what is unsound, `evict.py` what has to go, `uses.py` what must stay.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import filelock

from compiler.errors import CacheUnusable
from compiler.evict import Entry, choose_evictions
from compiler.faults import find_fault
from compiler.manifest import MANIFEST_NAME, Manifest, read_manifest
from compiler.publish import publish, workspace
from compiler.uses import Uses

log = logging.getLogger("torchere.compiler")

LOCKS, BUILDS = ".locks", ".builds"
LOCK_POLL_S = 1.0  # how often a waiting process may tell that it waits, and be stopped
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class Cache:
    """Artifacts under `root/<key>/`. Safe for any number of processes and hosts that share the folder.

    `cache.get_or_build(key, build)` -> (folder, manifest, cached). The folder is made at the first build, for its owner
    only: an artifact is code. After a build the artifacts longest unused go until `max_bytes` suffice (0: no limit);
    never one that a running process took. `shipped` are folders of artifacts that came with the models: they are
    looked through first, and never written.
    """

    def __init__(self, root: Path, max_bytes: int = 0, shipped: Iterable[Path] = ()) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.shipped = tuple(shipped)
        self._check_shipped: Callable[[Path], None] = lambda artifact: None
        self._uses = Uses(root / LOCKS)

    def __repr__(self) -> str:
        return f"<Cache {self.root}>"

    def with_shipped(self, folder: Path, check: Callable[[Path], None] = lambda artifact: None) -> Cache:
        """The same cache, which looks through `folder` first; `check(artifact)` raises where one may not be used."""
        cache = Cache(self.root, self.max_bytes, (folder, *self.shipped))
        cache._check_shipped, cache._uses = check, self._uses
        return cache

    def find(
        self, key: str, is_current: Callable[[Manifest], bool] = lambda manifest: True
    ) -> tuple[Path, Manifest] | None:
        """The sound artifact of `key`, marked as used by this process; None where there is none. Never builds."""
        found = self._find_shipped(key)
        if found is not None:
            return found
        is_new = self._uses.mark(key)
        manifest = self._find_sound(key)
        if manifest is not None and is_current(manifest):
            return self.root / key, manifest
        if is_new:
            self._uses.release(key)
        return None

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
        found = self.find(key, is_current)
        if found is not None:
            return (*found, True)
        with self._locked(key, on_wait):
            found = self.find(key, is_current)  # somebody else may have built it while we waited
            if found is not None:
                return (*found, True)
            if (self.root / key).exists() and find_fault(self.root / key, key) is not None:
                self._set_aside(key, "broken")
            is_new = self._uses.mark(key)  # before it is published: nobody may evict it between
            try:
                manifest = self._build(key, build, replaces=(self.root / key).exists())
            except BaseException:
                if is_new:
                    self._uses.release(key)
                raise
        self.trim()
        return self.root / key, manifest, False

    def list(self) -> tuple[Entry, ...]:
        """Every artifact that is served, the one used last first."""
        return tuple(entry for entry in self._entries() if not entry.aside)

    def list_aside(self) -> tuple[Entry, ...]:
        """Every artifact that was set aside, the latest first."""
        return tuple(entry for entry in self._entries() if entry.aside)

    def verify(self, key: str) -> str | None:
        """What is wrong with an artifact, in a sentence; None: it is sound."""
        return find_fault(self.root / key, key)

    def is_used(self, key: str) -> bool:
        """Whether a running process, this one or another, took the artifact of `key`."""
        return self._uses.is_used(key)

    def release(self, key: str) -> None:
        """This process does not need the artifact of `key` any more."""
        self._uses.release(key)

    def release_folder(self, folder: str) -> None:
        """The same for the artifact in `folder`, where that is one of this cache."""
        path = Path(folder)
        if path.parent == self.root:
            self.release(path.name)

    def prune(self, max_bytes: int) -> tuple[Entry, ...]:
        """Remove the artifacts longest unused until `max_bytes` suffice, and every one set aside; returns what went."""
        aside = self.remove(self.list_aside())
        served = self.list()
        keep = {entry.key for entry in served if self.is_used(entry.key)}
        return aside + self.remove(choose_evictions(served, max_bytes, keep))

    def trim(self) -> tuple[Entry, ...]:
        """Keep to the cache's own limit; returns what had to go."""
        if not self.max_bytes:
            return ()
        entries = self._entries()
        if sum(entry.size for entry in entries) <= self.max_bytes:
            return ()
        keep = {entry.key for entry in entries if self.is_used(entry.key)}
        gone = self.remove(choose_evictions(entries, self.max_bytes, keep))
        for entry in gone:
            log.info("cache: removed %s, %d bytes, the longest unused: the cache is limited", entry.key, entry.size)
        rest = sum(entry.size for entry in entries) - sum(entry.size for entry in gone)
        if rest > self.max_bytes:
            log.warning("cache: %d bytes are in use, more than its limit of %d", rest, self.max_bytes)
        return gone

    def remove(self, entries: Iterable[Entry]) -> tuple[Entry, ...]:
        """Remove artifacts, except one that is in use or being built; returns what went."""
        return tuple(entry for entry in entries if self._remove(entry))

    def _remove(self, entry: Entry) -> bool:
        if entry.aside:
            shutil.rmtree(entry.folder, ignore_errors=True)
            return not entry.folder.exists()
        lock = self._lock(entry.key)
        try:
            lock.acquire(timeout=0)
        except (filelock.Timeout, OSError):
            return False
        try:
            with self._uses.evicting(entry.key) as is_free:
                if not is_free or not entry.folder.exists():  # another prune may have been here
                    return False
                self._set_aside(entry.key, "evicted")  # renamed first, so that nobody reads half an artifact
        except OSError as error:
            log.warning("cache: %s cannot be removed: %s", entry.folder, error.strerror)
            return False
        finally:
            lock.release()
        return True

    def _find_shipped(self, key: str) -> tuple[Path, Manifest] | None:
        for folder in (shipped / key for shipped in self.shipped):
            if not folder.is_dir():
                continue
            self._check_shipped(folder)
            fault = find_fault(folder, key)
            if fault is None:
                return folder, read_manifest(folder)
            log.warning("an artifact that came with its model is not used: %s", fault)
        return None

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

    def _entries(self) -> tuple[Entry, ...]:
        if not self.root.is_dir():
            return ()
        entries = []
        for folder in self.root.glob("[0-9a-f]*"):
            key, _, aside = folder.name.partition(".")
            with contextlib.suppress(FileNotFoundError):  # removed while we look
                if aside or (folder / MANIFEST_NAME).exists():
                    why = aside.partition("-")[0]
                    entries.append(Entry(key, folder, _folder_size(folder), folder.stat().st_mtime, why))
        return tuple(sorted(entries, key=lambda entry: entry.last_used, reverse=True))

    def _lock(self, key: str) -> filelock.FileLock:
        return filelock.FileLock(self.root / LOCKS / f"{key}.lock", thread_local=False)

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
        lock = self._lock(key)
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

    def _build(self, key: str, build: Callable[[Path], Path], replaces: bool) -> Manifest:
        """`replaces`: an outdated artifact is there, and serves others until the new one is built."""
        with workspace(self.root / BUILDS, key) as folder:
            made = build(folder)
            fault = find_fault(made, key)
            assert fault is None, f"a new artifact must be sound: {fault}"
            manifest = read_manifest(made)
            if replaces:
                self._set_aside(key, "outdated")
            try:
                publish(made, self.root / key)
            except OSError as error:
                # On a volume without working locks another host may have been as quick: equal keys, equal artifacts.
                theirs = self._find_sound(key) if error.errno in TAKEN else None
                if theirs is None:
                    raise CacheUnusable(f"{self.root / key} cannot be published: {error.strerror}") from error
                return theirs
        return manifest

    def _set_aside(self, key: str, why: str) -> None:
        """Move an artifact out of the way; one found broken is kept for its owner to look at until the next prune."""
        aside = self.root / f"{key}.{why}-{time.time_ns()}"
        (self.root / key).rename(aside)
        if why != "broken":
            shutil.rmtree(aside, ignore_errors=True)


def _folder_size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
