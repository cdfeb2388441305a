"""Brings artifacts to engines: what the loader made is ordered, what the engines answer is told, counted, published.

Knows no process and no socket: `serve.py` gives it the ways to send and to publish. `engine/rollout.py` decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from service.engine.fleet import Key
from service.engine.messages import EngineAddress, Load, Loaded, LoadFailed, Snapshot
from service.engine.rollout import GivenUp, Offer, Rollout, Swapped
from service.observe.metrics import CatalogMetrics
from service.repository.catalog import Catalog, Entry, State

log = logging.getLogger("torchere.parent")


class Deployment:
    """All models on all engines. `send(slot, load)` reaches one engine, `publish()` is called after each change."""

    def __init__(
        self, devices: tuple[str, ...], send: Callable[[int, Load], None], publish: Callable[[], None]
    ) -> None:
        self.catalog = Catalog()
        self._rollout = Rollout(devices)
        self._slots = range(len(devices))
        self._send = send
        self._publish = publish
        self._metrics = CatalogMetrics()

    def __repr__(self) -> str:
        return f"<Deployment {self.catalog!r} {self._rollout!r}>"

    @property
    def is_loading(self) -> bool:
        """Whether some version may still become ready."""
        return any(entry.state is State.LOADING for entry in self.catalog.entries())

    def snapshot(self) -> Snapshot:
        """What frontends serve from now on."""
        ready = frozenset((entry.name, entry.version) for entry in self.catalog.entries() if entry.is_ready)
        return Snapshot(self.catalog.entries(), self._rollout.fleet.usable(ready))

    def count_seconds(self, seconds: float) -> None:
        """So much time has passed: called every so often."""
        self._metrics.passed(self.catalog, seconds)

    # What the loader tells.

    def announced(self, entry: Entry) -> None:
        """A version was found."""
        self._rollout.announced(entry)
        self._follow()

    def progressed(self, key: Key, note: str) -> None:
        """The compiler does something else now."""
        self._rollout.progressed(key, note)
        self._follow()

    def offered(self, entry: Entry, folder: Path, *, is_final: bool, shortfall: str = "") -> None:
        """A version has an artifact: every engine loads it."""
        offer = self._rollout.offered(entry, str(folder), is_final=is_final, shortfall=shortfall)
        for slot in self._slots:
            self._send(slot, self._rollout.order(slot, offer))
        self._follow()

    def failed(self, key: Key, reason: str) -> None:
        """A version could not be compiled."""
        self._rollout.compile_failed(key, reason)
        entry = self.catalog.entry(*key)
        if entry.is_ready:
            log.error("model %s version %s could not be compiled: %s; %s goes on serving", *key, reason, entry.rung)
        self._follow()

    # What the engines tell.

    def orders(self, slot: int) -> list[Load]:
        """All that a new engine has to load."""
        return self._rollout.orders(slot)

    def started(self, slot: int, address: EngineAddress) -> None:
        """An engine listens."""
        self._rollout.fleet.started(slot, address)
        self._follow()

    def died(self, slot: int) -> None:
        """An engine is gone."""
        self._rollout.fleet.died(slot)
        self._follow()

    def answered(self, slot: int, answer: Loaded | LoadFailed) -> None:
        """An engine has loaded an artifact, or could not."""
        match answer:
            case Loaded(name, version, generation, seconds):
                self._rollout.loaded(slot, (name, version), generation, seconds)
            case LoadFailed(name, version, generation, reason):
                self._rollout.failed(slot, (name, version), generation, reason)
        self._follow()

    def _follow(self) -> None:
        changes = list(self._rollout.settle())
        for entry in self._rollout.entries():
            self._tell_loss(entry)
            self.catalog.put(entry)
        for change in changes:
            self._tell(change)
        self._metrics.publish(self.catalog)
        self._publish()

    def _tell_loss(self, entry: Entry) -> None:
        was_there = self.catalog.has(entry.name, entry.version)
        if entry.state is not State.UNAVAILABLE or not was_there:
            return
        before = self.catalog.entry(entry.name, entry.version)
        if before.state is not State.UNAVAILABLE:
            log.error("model %s version %s is unavailable: %s", entry.name, entry.version, entry.reason)

    def _tell(self, change: Swapped | GivenUp) -> None:
        match change:
            case Swapped(None, after):
                if not after.is_final:
                    self._metrics.fell_back(after.entry)
                log.info("%s is ready: %s from %s", _title(after), after.entry.rung, after.entry.origin)
            case Swapped(Offer() as before, Offer() as after):
                self._metrics.swapped(before.entry, after.entry)
                log.info("%s: %s serves now in place of %s", _title(after), after.entry.rung, before.entry.rung)
            case GivenUp(offer, stays, reason):
                log.error("%s: %s; %s stays", _title(offer), reason, stays.entry.rung)


def _title(offer: Offer) -> str:
    return f"model {offer.entry.name} version {offer.entry.version}"
