"""What all processes counted, together: sums, largest values, and gauges of those that live.

Reads the words of `store.py` by the declarations of `metrics.py`. A `Reader` remembers where series lie, for they stay
there. `sidecar.py` publishes what it reads, `statistics.py` answers from it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.observe.buckets import Counts
from service.observe.metrics import BY_NAME, EXEMPLAR_WORDS, Metric
from service.observe.store import FILE_PREFIX, is_alive, locked, places

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


class _Rows:
    """Of one metric in one file: which rows of the sums its series are, and where their words begin."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.starts: list[int] = []


class _File:
    """Where the series of one file lie, as far as they were read."""

    def __init__(self) -> None:
        self.read = 1
        self.metrics: dict[str, _Rows] = {}


class Reader:
    """`reader.read()` merges the files of a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[tuple[str, int], _File] = {}
        self._rows: dict[str, dict[Labels, int]] = {name: {} for name in BY_NAME}

    def read(self, names: Iterable[str] | None = None) -> Merged:
        """The words of these metrics, or of all. Raises OSError where the directory is gone."""
        found: list[tuple[Counts, _File, bool]] = []
        seen = set()
        with locked(self.directory, fcntl.LOCK_SH):
            for path in self.directory.glob(f"{FILE_PREFIX}*"):
                identity = (path.name, path.stat().st_ino)
                seen.add(identity)
                file = self._files.setdefault(identity, _File())
                words = np.frombuffer(path.read_bytes(), dtype=np.uint64)
                self._index(file, memoryview(words))  # type: ignore[arg-type]
                found.append((words, file, is_alive(path)))
        for identity in set(self._files) - seen:
            del self._files[identity]
        return {name: self._sum(BY_NAME[name], found) for name in (names if names is not None else BY_NAME)}

    def _index(self, file: _File, words: memoryview) -> None:
        for (name, *labels), start, end in places(words, file.read):
            file.read = end
            metric = BY_NAME.get(name)
            if metric is None or len(labels) != len(metric.labels) or end - start != metric.size:
                continue  # counted by another version
            rows, mine = self._rows[name], file.metrics.setdefault(name, _Rows())
            mine.rows.append(rows.setdefault(tuple(labels), len(rows)))
            mine.starts.append(start)

    def _sum(self, metric: Metric, found: list[tuple[Counts, _File, bool]]) -> dict[Labels, Counts]:
        known = self._rows[metric.name]
        sums, is_there = np.zeros((len(known), metric.size), dtype=np.uint64), np.zeros(len(known), dtype=bool)
        columns = np.arange(metric.size)
        for words, file, lives in found:
            mine = file.metrics.get(metric.name)
            if mine is None or not (lives or metric.outlives):
                continue
            rows, added = np.array(mine.rows), words[np.array(mine.starts)[:, None] + columns]
            sums[rows] = _together(metric, sums[rows], added)
            is_there[rows] = True
        return {labels: words for (labels, row), words in zip(known.items(), sums, strict=True) if is_there[row]}


def _together(metric: Metric, before: Counts, added: Counts) -> Counts:
    """The words of two processes, a row for each series: sums or the larger ones, and of examples the newer ones."""
    if metric.merge == "max":
        return np.maximum(before, added)
    if metric.has_exemplars and metric.buckets is not None:
        plain = 1 + metric.buckets.count
        shape = (len(added), -1, EXEMPLAR_WORDS)
        mine, other = before[:, plain:].reshape(shape), added[:, plain:].reshape(shape)
        newer = np.where(other[:, :, 3:4] > mine[:, :, 3:4], other, mine).reshape(len(added), -1)
        return np.concatenate([before[:, :plain] + added[:, :plain], newer], axis=1)
    return before + added


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
