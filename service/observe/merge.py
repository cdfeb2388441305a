"""What all processes counted, together: sums, largest values, and gauges of those that live.

Reads the words of `store.py` by the declarations of `metrics.py`. A `Reader` remembers where series lie, for they stay
there. `sidecar.py` publishes what it reads, `statistics.py` answers from it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service.observe.buckets import Counts
from service.observe.metrics import BY_NAME, EXEMPLAR_WORDS, Metric
from service.observe.store import FILE_PREFIX, Place, is_alive, locked, places

Labels = tuple[str, ...]
Merged = dict[str, dict[Labels, Counts]]  # by metric: by labels: words


@dataclass(frozen=True)
class Exemplar:
    """One request of a bucket: its trace, its value in the published unit, and when (since 1970)."""

    trace_id: str
    value: float
    seconds: float


def words_of(values: Mapping[Labels, int]) -> dict[Labels, Counts]:
    """Numbers that nobody counts but somebody tells, as if they had been counted."""
    return {labels: np.array([value], dtype=np.uint64) for labels, value in values.items()}


@dataclass
class _File:
    """Where the series of one file lie, as far as they were read."""

    read: int = 1
    found: list[Place] = field(default_factory=list)


class Reader:
    """`reader.read()` merges the files of a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[tuple[str, int], _File] = {}

    def read(self, names: Iterable[str] | None = None) -> Merged:
        """The words of these metrics, or of all. Raises OSError where the directory is gone."""
        wanted = {name: BY_NAME[name] for name in names} if names is not None else BY_NAME
        merged: Merged = {name: {} for name in wanted}
        seen = set()
        with locked(self.directory, fcntl.LOCK_SH):
            for path in self.directory.glob(f"{FILE_PREFIX}*"):
                raw = path.read_bytes()
                identity = (path.name, path.stat().st_ino)
                seen.add(identity)
                file = self._files.setdefault(identity, _File())
                file.found += places(memoryview(raw).cast("Q"), file.read)
                if file.found:
                    file.read = file.found[-1][2]
                _merge(np.frombuffer(raw, dtype=np.uint64), file.found, wanted, merged, is_alive(path))
        for identity in set(self._files) - seen:
            del self._files[identity]
        return merged


def _merge(words: Counts, found: list[Place], wanted: dict[str, Metric], merged: Merged, lives: bool) -> None:
    for (name, *labels), start, end in found:
        metric = wanted.get(name)
        if metric is None or not (lives or metric.outlives) or len(labels) != len(metric.labels):
            continue
        sums, key, mine = merged[name], tuple(labels), words[start:end]
        before = sums.get(key)
        if before is None:
            sums[key] = mine.copy()
        elif metric.merge == "max":
            np.maximum(before, mine, out=before)
        else:
            plain = 1 + metric.buckets.count if metric.buckets is not None else metric.size
            before[:plain] += mine[:plain]
            _keep_newer(before, mine, plain)


def _keep_newer(before: Counts, mine: Counts, plain: int) -> None:
    for at in range(plain, len(before), EXEMPLAR_WORDS):
        if mine[at + 3] > before[at + 3]:
            before[at : at + EXEMPLAR_WORDS] = mine[at : at + EXEMPLAR_WORDS]


def exemplars(metric: Metric, words: Counts) -> dict[int, Exemplar]:
    """The examples of a histogram, by the number of their classic bucket; half-written ones are left out."""
    if not metric.has_exemplars or metric.buckets is None:
        return {}
    first = 1 + metric.buckets.count
    if not words[first:].any():
        return {}
    found = {}
    for number, at in enumerate(range(first, len(words), EXEMPLAR_WORDS)):
        high, low, value, when, check = words[at : at + EXEMPLAR_WORDS].tolist()
        if when and check == high ^ low ^ value ^ when:
            found[number] = Exemplar(f"{high:016x}{low:016x}", value * metric.scale, when / 1000)
    return found
