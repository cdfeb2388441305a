"""Where frontends and engines count: each call adds to a few words, a microsecond or so for a request.

Knows the metrics and the store, nothing of requests and models but names. `plane.py` and `engine/models.py` call it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from service.observe import metrics
from service.observe.adding import Histogram, series
from service.observe.buckets import SECONDS
from service.observe.metrics import EXEMPLAR_WORDS
from service.observe.store import MASK, Store
from service.observe.tally import Tallies, Tally
from service.observe.traceparent import parse_traceparent

COUNTED_AS_FAILED = ("failed", "rejected", "timeout", "cancelled")  # what is refused as invalid was no inference


def _ending(store: Store, model: str, version: str, protocol: str, outcome: str) -> Callable[[float, int], None]:
    """What counts one request of this kind, given its seconds and its rows."""
    found = series(store, metrics.REQUESTS, model, version, protocol, outcome)
    ends, end = found.words, found.at
    if version and outcome == "success":  # no version: no such model
        latency = series(store, metrics.LATENCY, model, version, protocol)
        answered = series(store, metrics.ROWS_ANSWERED, model, version, protocol)
        last = series(store, metrics.LAST, model, version)
        observe = Histogram(latency).add
        row_words, row, last_words, at = answered.words, answered.at, last.words, last.at

        def succeeded(seconds: float, rows: int) -> None:
            ends[end] += 1
            observe(int(seconds * 1e9))
            row_words[row] += rows
            last_words[at] = int(time.time() * 1000)

        return succeeded
    failed = series(store, metrics.FAILED_SECONDS, model, version) if version else None

    def ended(seconds: float, rows: int) -> None:
        ends[end] += 1
        if failed is not None and outcome in COUNTED_AS_FAILED:
            failed.add(int(seconds * 1e9))

    return ended


class RequestRecorder:
    """What a plane reports, from the one thread of its loop: one call for each request."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ended: dict[tuple[str, str, str, str], Callable[[float, int], None]] = {}
        self._encoded: dict[tuple[str, str], Callable[[int], None]] = {}
        self._in_flight = series(store, metrics.IN_FLIGHT)
        self._tallies = Tallies(store)
        self.turned = self._tallies.turned  # answers that were added to tallies are about to leave

    def tally(self, model: str, version: str, protocol: str, rows: int) -> Tally:
        """What counts requests of one kind that succeed, with so many rows each: those of one turn of the loop at once.

        It counts what `finished` and `encoded` do, for requests of which nothing more is to be told.
        """
        return self._tallies.make(model, version, protocol, rows)

    def hasten(self, lag_s: float) -> None:
        """Count what is added to tallies within that time: others wait for it."""
        self._tallies.lag_s = lag_s

    def settle(self) -> None:
        """Count now what was added to tallies."""
        self._tallies.settle()

    def finished(self, model: str, version: str, protocol: str, outcome: str, seconds: float, rows: int) -> None:
        """Count one request that ended; its latency only where it was answered. No model: no such model."""
        key = model, version, protocol, outcome
        ended = self._ended.get(key)
        if ended is None:
            ended = self._ended[key] = _ending(self._store, *key)
        ended(seconds, rows)

    def encoded(self, model: str, version: str, seconds: float) -> None:
        """An answer was turned into its protocol's bytes."""
        key = model, version
        observe = self._encoded.get(key)
        if observe is None:
            observe = self._encoded[key] = Histogram(series(self._store, metrics.PHASE, model, version, "encode")).add
        observe(int(seconds * 1e9))

    def traced(self, model: str, version: str, protocol: str, seconds: float, traceparent: str) -> None:
        """The request just finished is part of a trace that is kept: it is the last example of its bucket."""
        context = parse_traceparent(traceparent)
        if context is None or not context.is_sampled:
            return
        trace = context.trace_id
        spent = int(seconds * 1e9)
        found = series(self._store, metrics.LATENCY, model, version, protocol)
        at = found.at + 1 + SECONDS.count + EXEMPLAR_WORDS * SECONDS.classic_of(spent)
        high, low, now = trace >> 64 & MASK, trace & MASK, int(time.time() * 1000)
        for index, word in enumerate((high, low, spent, now, high ^ low ^ spent ^ now)):
            found.words[at + index] = word

    def exported(self, outcome: str, requests: int) -> None:
        """What became of the traces of so many requests. From a thread other than the loop's."""
        with self._store.lock:
            series(self._store, metrics.TRACES, outcome).add(requests)

    def looked_up(self, model: str, version: str, is_kept: bool, seconds: float) -> None:
        """An answer was looked for among those kept, which took so long, and was there or not."""
        labels = model, version, "hit" if is_kept else "miss"
        series(self._store, metrics.KEPT, *labels).add(1)
        series(self._store, metrics.KEPT_SECONDS, *labels).add(int(seconds * 1e9))

    def in_flight(self, requests: int) -> None:
        """How many requests are being worked on."""
        self._in_flight.set(requests)


class InnerRecorder:
    """What an engine reports, from any thread, of the requests that ensembles make of their models."""

    PROTOCOL = "ensemble"

    def __init__(self, store: Store) -> None:
        self._lock = store.lock
        self._requests = RequestRecorder(store)

    def finished(self, model: str, version: str, outcome: str, seconds: float, rows: int) -> None:
        """Count one request that ended, as if a client had sent it."""
        with self._lock:
            self._requests.finished(model, version, self.PROTOCOL, outcome, seconds, rows)
