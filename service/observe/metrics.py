"""Every metric of the service, declared once.

Each process writes its own files in the metrics directory (prometheus_client's multiprocess mode); `sidecar.py` merges
and publishes them. PROMETHEUS_MULTIPROC_DIR must be set before this file is imported: `serve.py` sees to it.
Touched in three places only: the plane, the engine's loop, and the parent.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram, values

from service.repository.catalog import Catalog, Entry

if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    # The library asks the system for the pid at every count, in case of a fork; our processes never fork.
    PID = os.getpid()
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: PID)  # type: ignore[no-untyped-call]

# 100 µs to 60 s: a tiny model on a local socket to a large one that queues.
SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)
MODEL = ("model", "version")

REQUESTS = Counter(
    "torchere_requests", "Inference requests answered, by how they ended.", (*MODEL, "protocol", "outcome")
)
ROWS_ANSWERED = Counter("torchere_rows", "Rows of requests answered with success.", (*MODEL, "protocol"))
LATENCY = Histogram(
    "torchere_request_seconds", "Time from a request's arrival to its answer.", (*MODEL, "protocol"), buckets=SECONDS
)
IN_FLIGHT = Gauge("torchere_requests_in_flight", "Inference requests being worked on.", multiprocess_mode="livesum")
PHASE = Histogram(
    "torchere_phase_seconds",
    "Time in each phase: queue (per request), stack, copy_in, compute, copy_out (per batch).",
    (*MODEL, "phase"),
    buckets=SECONDS,
)
BATCH = Histogram(
    "torchere_batch_rows", "Rows of requests in each batch that ran, padding left out.", MODEL, buckets=ROWS
)
PADDING = Counter("torchere_padding_rows", "Rows of padding that ran.", MODEL)
QUEUE_DEPTH = Gauge("torchere_queue_depth", "Requests that wait in the queue.", MODEL, multiprocess_mode="livesum")
READY = Gauge("torchere_model_ready", "1 when the model version answers requests.", MODEL, multiprocess_mode="livemax")
INFO = Gauge(
    "torchere_model_info",
    "1 for the artifact that serves a model version, 0 for those that did.",
    (*MODEL, "backend", "precision", "variant", "device"),
    multiprocess_mode="livemax",
)
OPTIMISED = Gauge(
    "torchere_model_optimised",
    "1 when the winner of the race serves, 0 while or because something else does.",
    MODEL,
    multiprocess_mode="livemax",
)
FALLBACKS = Counter("torchere_fallback", "Times a model version began to serve before it was compiled.", MODEL)
FALLBACK_SECONDS = Counter("torchere_fallback_seconds", "Seconds that a version served on its fallback.", MODEL)
SWAPS = Counter(
    "torchere_swaps",
    "Times an artifact took the place of another between two batches.",
    (*MODEL, "from_backend", "to_backend"),
)
COMPILE = Gauge(
    "torchere_compile_seconds",
    "Seconds spent in each stage when the artifact was compiled.",
    (*MODEL, "stage"),
    multiprocess_mode="livemax",
)
CACHE = Counter("torchere_cache_requests", "Artifacts asked of the cache, by hit or miss.", ("result",))
RESTARTS = Counter("torchere_process_restarts", "Child processes that died and were started again.", ("process",))


KEPT = Counter(
    "torchere_response_cache_lookups", "Times a kept answer was looked for, by hit or miss.", (*MODEL, "result")
)
KEPT_SECONDS = Counter(
    "torchere_response_cache_lookup_seconds", "Seconds that looking for kept answers took.", (*MODEL, "result")
)


class RequestMetrics:
    """What the plane reports: one call for each request. Children are looked up once for each set of labels."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str, str, str], Counter] = {}
        self._latency: dict[tuple[str, str, str], tuple[Histogram, Counter]] = {}

    def finished(self, model: str, version: str, protocol: str, outcome: str, seconds: float, rows: int) -> None:
        """Count one request that ended; its latency only where it was answered."""
        key = (model, version, protocol, outcome)
        ended = self._ended.get(key)
        if ended is None:
            ended = self._ended[key] = REQUESTS.labels(*key)
        ended.inc()
        if outcome == "success":
            pair = self._latency.get(key[:3])
            if pair is None:
                pair = self._latency[key[:3]] = (LATENCY.labels(*key[:3]), ROWS_ANSWERED.labels(*key[:3]))
            pair[0].observe(seconds)
            pair[1].inc(rows)

    def looked_up(self, model: str, version: str, is_kept: bool, seconds: float) -> None:
        """Count one look among the kept answers."""
        labels = (model, version, "hit" if is_kept else "miss")
        KEPT.labels(*labels).inc()
        KEPT_SECONDS.labels(*labels).inc(seconds)


class EngineMetrics:
    """What a served model reports about its batches and its queue."""

    def __init__(self, model: str, version: str) -> None:
        self._queue = PHASE.labels(model, version, "queue")
        self._phases = [PHASE.labels(model, version, phase) for phase in ("stack", "copy_in", "compute", "copy_out")]
        self._batch = BATCH.labels(model, version)
        self._padding = PADDING.labels(model, version)
        self._depth = QUEUE_DEPTH.labels(model, version)

    def batch(self, queue_ns: Sequence[int], phases_ns: tuple[int, int, int, int], rows: int, bucket: int) -> None:
        """One batch has run: nanoseconds each request waited, nanoseconds of each phase, its rows and its bucket."""
        for waited in queue_ns:
            self._queue.observe(waited / 1e9)
        for phase, spent in zip(self._phases, phases_ns, strict=True):
            phase.observe(spent / 1e9)
        self._batch.observe(rows)
        self._padding.inc(bucket - rows)

    def depth(self, requests: int) -> None:
        """How many requests wait now."""
        self._depth.set(requests)


class CatalogMetrics:
    """What the parent reports about the models: what serves, on what, and for how long on the fallback."""

    def __init__(self) -> None:
        self._active: dict[tuple[str, str], tuple[str, ...]] = {}

    def publish(self, catalog: Catalog) -> None:
        """Set the gauges that follow the catalog; called after each change."""
        for entry in catalog.entries():
            key = entry.name, entry.version
            READY.labels(*key).set(1 if entry.is_ready else 0)
            OPTIMISED.labels(*key).set(1 if entry.is_ready and entry.optimization == "optimised" else 0)
            active = (entry.backend, entry.precision, entry.variant, entry.device) if entry.is_ready else ()
            before = self._active.get(key, ())
            if before and before != active:
                INFO.labels(*key, *before).set(0)  # this library cannot forget a set of labels
            if active:
                INFO.labels(*key, *active).set(1)
            self._active[key] = active

    def fell_back(self, entry: Entry) -> None:
        """A version begins to serve on its fallback."""
        FALLBACKS.labels(entry.name, entry.version).inc()

    def swapped(self, before: Entry, after: Entry) -> None:
        """A version serves with another artifact now."""
        SWAPS.labels(after.name, after.version, before.backend, after.backend).inc()

    def passed(self, catalog: Catalog, seconds: float) -> None:
        """So much time has passed since the last call."""
        for entry in catalog.entries():
            if entry.is_on_fallback:
                FALLBACK_SECONDS.labels(entry.name, entry.version).inc(seconds)
