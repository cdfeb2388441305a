"""Chooses which artifacts of a cache have to go: those longest unused, until the rest fits or is young enough.

Pure: knows nothing of files or locks. `cache.py` lists the entries and removes what is chosen.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """One artifact as the cache sees it; `last_used` in seconds since the epoch, `size` in bytes.

    `aside` says why it is no longer served ("broken", "outdated"); "" where it is.
    """

    key: str
    folder: Path
    size: int
    last_used: float
    aside: str = ""


def choose_evictions(
    entries: Collection[Entry], max_bytes: int, keep: Collection[str] = frozenset()
) -> tuple[Entry, ...]:
    """The entries to remove so that the rest is at most `max_bytes`: those set aside first, then the longest unused.

    The keys to `keep` stay, even where the rest is then too large.
    """
    excess = sum(entry.size for entry in entries) - max_bytes
    chosen = []
    for entry in sorted(entries, key=lambda entry: (not entry.aside, entry.last_used)):
        if excess <= 0:
            break
        if entry.aside or entry.key not in keep:
            chosen.append(entry)
            excess -= entry.size
    return tuple(chosen)


def choose_unused(entries: Collection[Entry], before: float) -> tuple[Entry, ...]:
    """The entries that nobody took since `before`, in seconds since the epoch."""
    return tuple(entry for entry in entries if entry.last_used < before)
