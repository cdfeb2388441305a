"""Where processes count: 64-bit words in a mapped file for each process, which any process may read and add up.

Adding is a store into memory that readers see at once and that outlives the process. A process holds a lock on its file
while it lives, so that whoever may see the directory, in another container too, knows the living from the dead.
Knows no metric but by name. `recorders.py` adds, `merge.py` reads, `metrics.py` declares.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import mmap
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from service.scratch import Scratch

log = logging.getLogger("torchere.metrics")

DIRECTORY_VARIABLE = "TORCHERE_METRICS_DIRECTORY"
FILE_PREFIX = "metrics-"
LOCK_NAME = "lock"
WORD = 8
FIRST_WORDS = 8192  # 64 KiB: a few models; doubled when they are used up
MASK = 2**64 - 1

Key = tuple[str, ...]  # a metric's name and the values of its labels
Place = tuple[Key, int, int]  # and where its words lie: from, to


class Series:
    """The words of one metric under one set of labels. Whoever adds holds the store's lock where threads share it."""

    __slots__ = ("at", "words")

    def __init__(self, words: memoryview, at: int) -> None:
        self.words = words
        self.at = at

    def add(self, amount: int, index: int = 0) -> None:
        """Add to one word."""
        self.words[self.at + index] += amount

    def set(self, value: int, index: int = 0) -> None:
        """Replace one word."""
        self.words[self.at + index] = value

    def get(self, index: int = 0) -> int:
        """Read one word."""
        return self.words[self.at + index]


class Store:
    """What this process counts. Without a directory it counts in its own memory, where nobody else reads."""

    def __init__(self, directory: Path | None) -> None:
        self.lock = threading.RLock()
        self.directory = directory
        self._file = -1
        self._path = Path()
        self._series: dict[Key, Series] = {}
        self._capacity = FIRST_WORDS
        if directory is not None:
            with locked(directory, fcntl.LOCK_SH):
                self._file, path = tempfile.mkstemp(prefix=FILE_PREFIX, dir=directory)
                self._path = Path(path)
                # A sidecar in a container of its own is another user; what is counted is published anyway.
                os.fchmod(self._file, 0o644)
                fcntl.flock(self._file, fcntl.LOCK_EX)
        self._words = self._map()
        self._words[0] = 1

    def __repr__(self) -> str:
        return f"<Store {len(self._series)} series in {self._path if self.directory else 'memory'}>"

    def close(self) -> None:
        """Let go of the file: from now on it is a dead process's."""
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # not by closing alone: its map holds it open
            os.close(self._file)
            self._file = -1

    def series(self, key: Key, size: int = 1) -> Series:
        """The words under this key; made where there are none, all zero."""
        found = self._series.get(key)
        if found is None:
            with self.lock:
                found = self._series.get(key) or self._append(key, size)
        return found

    def _append(self, key: Key, size: int) -> Series:
        name = "\0".join(key).encode()
        name_words = -(-len(name) // WORD)
        used = self._words[0]
        length = 3 + name_words + size
        while used + length > self._capacity:
            self._capacity *= 2
        if self._capacity > len(self._words):
            self._words = self._map(used)  # series handed out before keep the old map of the same file
        words, at = self._words, used + 3 + name_words
        words[used], words[used + 1], words[used + 2] = length, len(name), size
        words[used + 3 : at] = memoryview(name.ljust(name_words * WORD, b"\0")).cast("Q")
        series = self._series[key] = Series(words, at)
        words[0] = used + length  # last, so that a reader finds whole series only
        return series

    def _map(self, used: int = 1) -> memoryview:
        size = self._capacity * WORD
        if self._file >= 0:
            try:
                os.posix_fallocate(self._file, 0, size)  # a store into a hole of a full disk would end the process
                return memoryview(mmap.mmap(self._file, size)).cast("Q")
            except OSError as error:
                log.error("metrics in %s: %s: what is new from now on is not published", self._path, error)
        words = memoryview(bytearray(size)).cast("Q")
        words[0] = used
        return words

    def absorb_dead(self, merge_of: Callable[[str], str]) -> int:
        """Take over what ended processes counted and remove their files; returns how many.

        `merge_of` says of a metric's name whether words are summed ("sum"), the larger holds ("max"), or end ("").
        """
        directory, absorbed = self.directory, 0
        if directory is None:
            return 0
        with locked(directory, fcntl.LOCK_EX), self.lock:
            for path in sorted(directory.glob(f"{FILE_PREFIX}*")):
                if path == self._path or is_alive(path):
                    continue
                words = memoryview(path.read_bytes()).cast("Q")
                for key, start, end in places(words, 1):
                    merge = merge_of(key[0])
                    if merge:
                        self._take_over(key, words[start:end].tolist(), merge == "max")
                path.unlink()
                absorbed += 1
        return absorbed

    def _take_over(self, key: Key, values: list[int], is_max: bool) -> None:
        series = self.series(key, len(values))
        for index, value in enumerate(values):
            mine = series.get(index)
            # Words behind the buckets of a histogram are examples: a sum that does not fit is none any more.
            series.set(max(mine, value) if is_max else (mine + value) & MASK, index)


def places(words: memoryview, at: int) -> Iterator[Place]:
    """Where each series lies, from the one that begins at `at`."""
    used = words[0] if len(words) else 0
    while at < used:
        length, name_bytes, size = words[at : at + 3].tolist()
        name = bytes(words[at + 3 : at + length - size])[:name_bytes].decode()
        yield tuple(name.split("\0")), at + length - size, at + length
        at += length


def is_alive(path: Path) -> bool:
    """Whether the process that counts in this file still lives."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextlib.contextmanager
def locked(directory: Path, how: int) -> Iterator[None]:
    """Hold the directory: while one moves counts from file to file (LOCK_EX), nobody reads or begins a file."""
    path = directory / LOCK_NAME
    try:
        file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    except OSError:
        file = os.open(path, os.O_RDONLY)  # the directory is another's, and may be read only
    try:
        fcntl.flock(file, how)
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def metrics_folder(chosen: Path | None) -> Iterator[Path]:
    """The folder in which this process and its children count: the chosen one, which stays, else a temporary one."""
    with contextlib.ExitStack() as stack:
        if chosen is None:
            scratch = Scratch("metrics-")
            stack.callback(scratch.remove)
            chosen = scratch.path
        chosen.mkdir(parents=True, exist_ok=True)
        os.environ[DIRECTORY_VARIABLE] = str(chosen)
        try:
            yield chosen
        finally:
            del os.environ[DIRECTORY_VARIABLE]


@functools.cache
def process_store() -> Store:
    """This process's own, in the directory that the environment names; in memory where it names none."""
    directory = os.environ.get(DIRECTORY_VARIABLE, "")
    return Store(Path(directory) if directory else None)
