"""What the parent counts: what serves, on what, how it was compiled, and the processes that died.

Knows the catalog's entries, no process. `deployment.py`, `loading.py` and `serve.py` call it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from service.observe import metrics
from service.observe.adding import series
from service.observe.metrics import Metric
from service.observe.store import Series, Store, process_store

if TYPE_CHECKING:
    from service.repository.catalog import Catalog, Entry

MILLIONTH = 1e6  # shares are counted in millionths
SECOND_NS = 1e9


class CatalogRecorder:
    """Gauges follow the catalog; events are counted as they happen."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or process_store()
        self._active: dict[tuple[str, str], tuple[str, ...]] = {}
        self._raced: dict[tuple[str, str], Counter[tuple[str, str, str]]] = {}

    def _of(self, metric: Metric, *labels: str) -> Series:
        return series(self._store, metric, *labels)

    def publish(self, catalog: Catalog) -> None:
        """Set the gauges that follow the catalog; called after each change."""
        for gone in self._active.keys() - {(entry.name, entry.version) for entry in catalog.entries()}:
            for metric in (metrics.READY, metrics.WANTED, metrics.OPTIMISED):
                self._of(metric, *gone).set(0)
            if active := self._active.pop(gone):
                self._of(metrics.INFO, *gone, *active).set(0)
        for entry in catalog.entries():
            key = entry.name, entry.version
            self._of(metrics.READY, *key).set(int(entry.is_ready))
            self._of(metrics.WANTED, *key).set(int(entry.is_wanted and entry.state != "UNLOADING"))
            self._of(metrics.OPTIMISED, *key).set(int(entry.is_ready and entry.optimization == "optimised"))
            active = (entry.backend, entry.precision, entry.variant, entry.device) if entry.is_ready else ()
            before = self._active.get(key, ())
            if before and before != active:
                self._of(metrics.INFO, *key, *before).set(0)
            if active:
                self._of(metrics.INFO, *key, *active).set(1)
            self._active[key] = active

    def loaded(self, name: str, version: str, seconds: float) -> None:
        """An engine has loaded a version, which took so long."""
        self._of(metrics.LOAD_SECONDS, name, version).set(int(seconds * SECOND_NS))

    def compiled(self, key: tuple[str, str], is_hit: bool, stages: Mapping[str, float]) -> None:
        """An artifact was asked of the cache, or made; so long each stage took, then or before."""
        self._of(metrics.CACHE, "hit" if is_hit else "miss").add(1)
        for stage, spent in stages.items():
            self._of(metrics.COMPILE, *key, stage).set(int(spent * SECOND_NS))

    def raced(self, key: tuple[str, str], rungs: Iterable[tuple[str, str, str]]) -> None:
        """What became of each rung of the ladder: its backend, its precision, its outcome."""
        now = Counter(rungs)
        for rung in self._raced.get(key, {}) | now:
            self._of(metrics.CANDIDATES, *key, *rung).set(now[rung])
        self._raced[key] = now

    def cached(self, size: int, limit: int) -> None:
        """The compile cache is so large now, in bytes, and may become so large; 0: there is no limit."""
        self._of(metrics.CACHE_BYTES).set(size)
        self._of(metrics.CACHE_LIMIT).set(limit)

    def covered(self, key: tuple[str, str], operators: float, parameters: float) -> None:
        """So much of a model lies in TensorRT engines."""
        for what, share in (("operators", operators), ("parameters", parameters)):
            self._of(metrics.COVERAGE, *key, what).set(round(share * MILLIONTH))

    def fell_back(self, entry: Entry) -> None:
        """A version begins to serve on its fallback."""
        self._of(metrics.FALLBACKS, entry.name, entry.version).add(1)

    def swapped(self, before: Entry, after: Entry) -> None:
        """A version serves with another artifact now."""
        self._of(metrics.SWAPS, after.name, after.version, before.backend, after.backend).add(1)

    def passed(self, catalog: Catalog, seconds: float) -> None:
        """So much time has passed since the last call."""
        for entry in catalog.entries():
            if entry.is_on_fallback:
                self._of(metrics.FALLBACK_SECONDS, entry.name, entry.version).add(int(seconds * SECOND_NS))
