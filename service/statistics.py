"""How often and how long: the totals of every model version over all processes, for the statistics extension.

Each process adds to a file of its own through a memory map: an addition is a store into memory that every reader sees
at once, takes less than a microsecond, and outlives the process. Any frontend sums the files when it is asked, so that
the numbers are the service's own wherever a request went. Knows no protocol, and no model but by name.
`frontend.py` counts requests, `engine/worker.py` batches, `control.py` answers with `read_totals`.
"""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # names the directory, which the metrics share
FILE_PREFIX = "statistics-"
KEY_BYTES = 160  # a name has at most 128 characters, a version 19 digits
WORD = 8
ROW_WORDS = 40  # the key, the batch size, and the counters below, with room for two more
FIRST_ROWS = 64  # 20 KB; doubled when they are used up
COUNTED_AS_FAILED = ("failed", "rejected", "timeout", "cancelled")  # what is refused as invalid was no inference


class Totals(msgspec.Struct):
    """What has been counted, in the order of a row. Times are nanoseconds; `last_inference_ms` is since the epoch."""

    success_count: int = 0
    success_ns: int = 0
    fail_count: int = 0
    fail_ns: int = 0
    queue_count: int = 0
    queue_ns: int = 0
    compute_count: int = 0  # one for input, inference and output: clients need the three to be equal
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    cache_hit_count: int = 0
    cache_hit_ns: int = 0
    cache_miss_count: int = 0
    cache_miss_ns: int = 0
    inference_count: int = 0  # rows
    execution_count: int = 0  # batches
    last_inference_ms: int = 0


# (model, version, batch size): batch size 0 has the totals of the version, the others those of such batches.
Key = tuple[str, str, int]
FIELDS = Totals.__struct_fields__
SUCCESS, FAIL, QUEUE, COMPUTE, HIT, MISS = (
    FIELDS.index(f"{name}_count") for name in ("success", "fail", "queue", "compute", "cache_hit", "cache_miss")
)
INFERENCES, EXECUTIONS, LAST = (
    FIELDS.index(name) for name in ("inference_count", "execution_count", "last_inference_ms")
)
BATCH_SIZE_AT = KEY_BYTES // WORD
COUNTERS_AT = BATCH_SIZE_AT + 1


class Row:
    """The counters of one key in this process's file; any thread may add."""

    __slots__ = ("_at", "_lock", "_words")

    def __init__(self, words: memoryview, at: int, lock: threading.Lock) -> None:
        self._words = words
        self._at = at
        self._lock = lock

    def add(self, first: int, *amounts: int) -> None:
        """Add to the counters from `first` on."""
        at, words = self._at + first, self._words
        with self._lock:
            for amount in amounts:
                words[at] += amount
                at += 1

    def mark(self, milliseconds: int) -> None:
        """Something was inferred at this time."""
        self._words[self._at + LAST] = milliseconds


class Tally:
    """What this process counts. `tally.row("digits", "1")` is where to add."""

    def __init__(self, directory: Path) -> None:
        self._file, _ = tempfile.mkstemp(prefix=FILE_PREFIX, dir=directory)
        self._lock = threading.Lock()
        self._rows: dict[Key, Row] = {}
        self._capacity = FIRST_ROWS
        self._words = self._map()

    def __repr__(self) -> str:
        return f"<Tally {len(self._rows)} rows>"

    def row(self, model: str, version: str, batch_size: int = 0) -> Row:
        """The row of this key; made where there is none."""
        key = model, version, batch_size
        found = self._rows.get(key)
        if found is None:
            with self._lock:
                found = self._rows.get(key) or self._append(key)
        return found

    def _append(self, key: Key) -> Row:
        number = len(self._rows) + 1  # the place of the first row holds their number
        if number >= self._capacity:
            self._capacity *= 2
            self._words = self._map()  # rows handed out before keep the old map of the same file
        at = number * ROW_WORDS
        name = f"{key[0]}\0{key[1]}".encode().ljust(KEY_BYTES, b"\0")
        assert len(name) == KEY_BYTES, "names and versions are bounded where they are read"
        self._words[at : at + BATCH_SIZE_AT] = memoryview(name).cast("Q")
        self._words[at + BATCH_SIZE_AT] = key[2]
        row = self._rows[key] = Row(self._words, at + COUNTERS_AT, self._lock)
        self._words[0] = number  # last, so that a reader finds whole rows only
        return row

    def _map(self) -> memoryview:
        size = self._capacity * ROW_WORDS * WORD
        os.ftruncate(self._file, size)
        return memoryview(mmap.mmap(self._file, size)).cast("Q")


class Counter(Protocol):
    """What the plane reports each request to."""

    def finished(self, model: str, version: str, protocol: str, outcome: str, seconds: float, rows: int) -> None: ...
    def looked_up(self, model: str, version: str, is_kept: bool, seconds: float) -> None: ...


class BatchCounter(Protocol):
    """What an engine reports its batches and its queue to."""

    def batch(self, queue_ns: Sequence[int], phases_ns: tuple[int, int, int, int], rows: int, bucket: int) -> None: ...
    def depth(self, requests: int) -> None: ...


class RequestTotals:
    """A frontend's share: requests answered and failed. Passes on to `metrics` what it is told."""

    def __init__(self, metrics: Counter, tally: Tally) -> None:
        self._metrics = metrics
        self._tally = tally

    def finished(self, model: str, version: str, protocol: str, outcome: str, seconds: float, rows: int) -> None:
        """One request has ended."""
        self._metrics.finished(model, version, protocol, outcome, seconds, rows)
        if not version:
            return  # no such model
        if outcome == "success":
            row = self._tally.row(model, version)
            row.add(SUCCESS, 1, int(seconds * 1e9))
            row.mark(int(time.time() * 1000))
        elif outcome in COUNTED_AS_FAILED:
            self._tally.row(model, version).add(FAIL, 1, int(seconds * 1e9))

    def looked_up(self, model: str, version: str, is_kept: bool, seconds: float) -> None:
        """An answer was looked for among those kept, which took so long, and was there or not."""
        self._metrics.looked_up(model, version, is_kept, seconds)
        self._tally.row(model, version).add(HIT if is_kept else MISS, 1, int(seconds * 1e9))


class BatchTotals:
    """An engine's share: what each batch of one version took. Passes on to `metrics` what it is told."""

    def __init__(self, metrics: BatchCounter, tally: Tally, model: str, version: str) -> None:
        self._metrics = metrics
        self._tally = tally
        self._key = model, version
        self._row = tally.row(model, version)

    def batch(self, queue_ns: Sequence[int], phases_ns: tuple[int, int, int, int], rows: int, bucket: int) -> None:
        """One batch has run; every request of it took as long as the batch."""
        self._metrics.batch(queue_ns, phases_ns, rows, bucket)
        stack_ns, copy_in_ns, compute_ns, copy_out_ns = phases_ns
        spent, count = (stack_ns + copy_in_ns, compute_ns, copy_out_ns), len(queue_ns)
        self._row.add(QUEUE, count, sum(queue_ns), count, *(count * each for each in spent))
        self._row.add(INFERENCES, rows, 1)
        self._tally.row(*self._key, rows).add(COMPUTE, 1, *spent)

    def depth(self, requests: int) -> None:
        """How many requests wait now."""
        self._metrics.depth(requests)


def read_totals(directory: Path) -> dict[Key, Totals]:
    """The sums over all processes, those that have ended too."""
    found: dict[Key, list[int]] = {}
    for path in directory.glob(f"{FILE_PREFIX}*"):
        words = memoryview(path.read_bytes()).cast("Q")
        for at in itertools.islice(range(ROW_WORDS, len(words), ROW_WORDS), words[0] if len(words) else 0):
            model, version = bytes(words[at : at + BATCH_SIZE_AT]).rstrip(b"\0").decode().split("\0")
            key = model, version, words[at + BATCH_SIZE_AT]
            counters = words[at + COUNTERS_AT : at + COUNTERS_AT + len(FIELDS)].tolist()
            sums = found.setdefault(key, [0] * len(FIELDS))
            for index, counted in enumerate(counters):
                sums[index] = max(sums[index], counted) if index == LAST else sums[index] + counted
    return {key: Totals(*sums) for key, sums in found.items()}


def model_statistics(name: str, version: str, totals: dict[Key, Totals]) -> dict[str, Any]:
    """One version's statistics as the protocol's JSON has them."""
    own = totals.get((name, version, 0), Totals())
    batches = sorted((key[2], each) for key, each in totals.items() if key[:2] == (name, version) and key[2])
    return {
        "name": name,
        "version": version,
        "last_inference": own.last_inference_ms,
        "inference_count": own.inference_count,
        "execution_count": own.execution_count,
        "inference_stats": {
            "success": _duration(own.success_count, own.success_ns),
            "fail": _duration(own.fail_count, own.fail_ns),
            "queue": _duration(own.queue_count, own.queue_ns),
            **_compute(own),
            "cache_hit": _duration(own.cache_hit_count, own.cache_hit_ns),
            "cache_miss": _duration(own.cache_miss_count, own.cache_miss_ns),
        },
        "response_stats": {},  # of models that give several responses to a request: there are none
        "batch_stats": [{"batch_size": size, **_compute(each)} for size, each in batches],
        "memory_usage": [],
    }


def _compute(totals: Totals) -> dict[str, dict[str, int]]:
    return {
        "compute_input": _duration(totals.compute_count, totals.compute_input_ns),
        "compute_infer": _duration(totals.compute_count, totals.compute_infer_ns),
        "compute_output": _duration(totals.compute_count, totals.compute_output_ns),
    }


def _duration(count: int, nanoseconds: int) -> dict[str, int]:
    return {"count": count, "ns": nanoseconds}
