"""What watches the requests of a frontend: for traces, for the log of accesses, for that of slow ones; or nothing.

Imports OpenTelemetry where tracing is on, and never else. `observe/watching.py` is what watches.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from service.observe.exporting import Exporter
from service.observe.sampling import Sampler, TraceSettings, sampling_of, trace_defaults
from service.observe.watching import Watcher
from service.settings import Settings
from service.tuning import trace_settings


class Watched:
    """`watcher` is None where nothing is wanted; `defaults` are the settings of traces where tracing is on."""

    def __init__(self, watcher: Watcher | None = None) -> None:
        self.watcher = watcher
        self.defaults: dict[str, tuple[str, ...]] = {}
        self.exporter: Exporter | None = None

    def follow(self, kept: TraceSettings) -> None:
        """Clients have changed the settings of the trace extension."""
        if self.watcher is not None and self.exporter is not None:
            self.watcher.follow({model: trace_settings(kept, model, self.defaults) for model in {"", *kept}})

    def close(self) -> None:
        """Send what waits to be sent; a few seconds at most."""
        if self.exporter is not None:
            self.exporter.close()


def make_watched(
    settings: Settings, counted: Callable[[str, int], None], backend_of: Callable[[str, str], str]
) -> Watched:
    """As the settings say. `counted` hears what became of traces, `backend_of` names what runs a model's version."""
    if not (settings.tracing or settings.access_log or settings.slow_request_ms):
        return Watched()
    watcher = Watcher(logs_access=settings.access_log, slow_s=settings.slow_request_ms / 1e3)
    watched = Watched(watcher)
    if settings.tracing:
        from service.observe.otel import make_sender

        sampling = sampling_of(settings.trace_ratio, os.environ)
        watched.exporter = Exporter(make_sender(settings.trace_endpoint), counted)
        watched.defaults = trace_defaults(sampling)
        watcher.trace(Sampler(sampling, random.getrandbits), watched.exporter, backend_of)
    return watched
