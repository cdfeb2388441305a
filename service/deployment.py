"""Brings artifacts to engines: what the loader made is ordered, what the engines answer is told, counted, published.

Knows no process and no socket: `serve.py` gives it the ways to send and to publish. `engine/rollout.py` decides.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from service.describe import as_clients_see
from service.engine.fleet import Key
from service.engine.messages import EngineAddress, Load, Loaded, LoadFailed, Snapshot, Unload, Unloaded
from service.engine.offers import GivenUp, Offer, Swapped
from service.engine.rollout import Rollout
from service.ensembles import Ensembles
from service.observe.catalog_recorder import CatalogRecorder
from service.repository.catalog import Catalog, Entry, State
from service.repository.model_config import ModelConfig

log = logging.getLogger("torchere.parent")

GIVEN_UP = "it was unloaded meanwhile"


@dataclass(frozen=True, slots=True)
class _Unloading:
    """The engines that have yet to let go of a version."""

    slots: set[int]
    is_done: asyncio.Event = field(default_factory=asyncio.Event)


class Deployment:
    """All models on all engines. `send(slot, message)` reaches one engine, `publish()` is called after each change.

    `retire(key, keep)` is called when only the contract `keep` of a version serves on.
    """

    def __init__(
        self,
        devices: tuple[str, ...],
        send: Callable[[int, Load | Unload], None],
        publish: Callable[[], None],
        retire: Callable[[Key, int], None] = lambda key, keep: None,
    ) -> None:
        self.catalog = Catalog()
        self._rollout = Rollout(devices)
        self._slots = range(len(devices))
        self._send = send
        self._publish = publish
        self._retire = retire
        self._expected: dict[Key, list[asyncio.Future[str]]] = {}
        self._unloading: dict[Key, list[_Unloading]] = {}  # a contract may be leaving when the whole version is to
        self._ensembles = Ensembles()
        self._folders: frozenset[str] = frozenset()
        self.let_go: Callable[[str], None] = lambda folder: None  # is told of artifacts that no engine needs any more
        self._metrics = CatalogRecorder()

    def __repr__(self) -> str:
        return f"<Deployment {self.catalog!r} {self._rollout!r}>"

    @property
    def is_loading(self) -> bool:
        """Whether some version may still become ready."""
        return any(entry.state is State.LOADING for entry in self.catalog.entries())

    def snapshot(self) -> Snapshot:
        """What frontends serve from now on."""
        ready = {(entry.name, entry.version): entry.contract for entry in self.catalog.entries() if entry.is_ready}
        return Snapshot(tuple(map(as_clients_see, self.catalog.entries())), self._rollout.fleet.usable(ready))

    def count_seconds(self, seconds: float) -> None:
        """So much time has passed: called every so often."""
        self._metrics.passed(self.catalog, seconds)

    # What the loader tells.

    def announced(self, entry: Entry) -> None:
        """A version was found."""
        self._ensembles.drop((entry.name, entry.version))
        self._rollout.announced(entry)
        self._follow()

    def progressed(self, key: Key, note: str) -> None:
        """The compiler does something else now."""
        self._rollout.progressed(key, note)
        self._follow()

    def offered(self, entry: Entry, folder: Path, *, is_final: bool, shortfall: str = "") -> None:
        """A version has an artifact: every engine loads it."""
        if self._rollout.serves(entry, str(folder)):
            self._rollout.kept((entry.name, entry.version), shortfall)
            self._conclude((entry.name, entry.version), "")
            self._follow()
            return
        self._order(self._rollout.offered(entry, str(folder), is_final=is_final, shortfall=shortfall))
        self._follow()

    def composed(self, config: ModelConfig, version: str) -> None:
        """An ensemble was found, or is to be served in another way: engines need to know once its models are ready."""
        key = config.name, version
        verdict = self._ensembles.judge(config, version, self.catalog)
        serves = key in self._ensembles and self.catalog.entry(*key).is_ready
        if serves and verdict.entry is None:
            self.failed(key, verdict.reason)
            return
        self._ensembles.put(config, version)
        if serves and verdict.entry is not None and not self._rollout.wants(key, verdict.entry):
            self._rollout.kept(key, "")
            self._conclude(key, "")
        self._follow()

    def failed(self, key: Key, reason: str) -> None:
        """A version could not be compiled."""
        self._rollout.compile_failed(key, reason)
        entry = self.catalog.entry(*key)
        if entry.is_ready:
            log.error("model %s version %s could not be compiled: %s; %s goes on serving", *key, reason, entry.rung)
        self._conclude(key, reason)
        self._follow()

    # What is asked while it serves.

    def expect(self, key: Key) -> asyncio.Future[str]:
        """What will become of a version that is about to be loaded: "" when it serves so, or else why it does not."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._expected.setdefault(key, []).append(future)
        return future

    def reloading(self, key: Key) -> None:
        """Another artifact is being made of what serves."""
        self._rollout.reloading(key)
        self._follow()

    def leaving(self, key: Key) -> None:
        """Frontends shall send no more requests of this version."""
        self._rollout.leaving(key)
        self._follow()

    def unload(self, key: Key, keep: int = 0) -> asyncio.Event:
        """Tell the engines to let go of a version, but for the contract `keep`; the event tells when they have."""
        unloading = _Unloading(set(self._rollout.fleet.live))
        self._unloading.setdefault(key, []).append(unloading)
        for slot in self._slots:
            self._send(slot, Unload(*key, keep))
        self._settle_unloading()
        return unloading.is_done

    def step_folders(self, key: Key) -> frozenset[str]:
        """Where the Python steps of a version are kept that engines may have to load."""
        return self._rollout.step_folders(key)

    def given_up(self, name: str) -> None:
        """Nothing more is made of a model: who waits for that is told."""
        for key in [key for key in self._expected if key[0] == name]:
            self._conclude(key, GIVEN_UP)

    def removed(self, key: Key, entry: Entry | None) -> None:
        """A version is served no more; `entry` says so, None: it is not even there."""
        self._rollout.removed(key, entry)
        self._ensembles.drop(key)
        self._conclude(key, GIVEN_UP)
        if entry is None:
            self.catalog.drop(*key)
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
        for unloading in itertools.chain.from_iterable(self._unloading.values()):
            unloading.slots.discard(slot)
        self._settle_unloading()
        self._follow()

    def answered(self, slot: int, answer: Loaded | LoadFailed | Unloaded) -> bool:
        """An engine has loaded an artifact, or could not, or has let go of one. True where nothing is left to do."""
        match answer:
            case Loaded(name, version, generation, seconds):
                self._metrics.loaded(name, version, seconds)
                self._rollout.loaded(slot, (name, version), generation, seconds)
            case LoadFailed(name, version, generation, reason):
                self._rollout.failed(slot, (name, version), generation, reason)
            case Unloaded(name, version):
                asked = (each for each in self._unloading.get((name, version), ()) if slot in each.slots)
                for unloading in itertools.islice(asked, 1):  # engines answer in order
                    unloading.slots.discard(slot)
                self._settle_unloading()
        self._follow()
        return self._rollout.fleet.is_settled(slot)

    def _settle_unloading(self) -> None:
        over = [each for asked in self._unloading.values() for each in asked if not each.slots]
        for unloading in over:
            unloading.is_done.set()
        left = {key: [each for each in asked if each.slots] for key, asked in self._unloading.items()}
        self._unloading = {key: asked for key, asked in left.items() if asked}

    def _conclude(self, key: Key, reason: str) -> None:
        for future in self._expected.pop(key, []):
            if not future.done():
                future.set_result(reason)

    def _follow(self) -> None:
        changes = list(self._rollout.settle())
        for entry in self._rollout.entries():
            if (entry.name, entry.version) not in self._ensembles:
                self._put(entry)
        for verdict in self._ensembles.judge_all(self.catalog):
            if verdict.entry is not None and self._rollout.wants(verdict.key, verdict.entry):
                self._order(self._rollout.offered(verdict.entry, "", is_final=True))
            self._put(verdict.hold(self._rollout.entry(verdict.key)))
        for change in changes:
            self._tell(change)
            self._close(change)
        folders = self._rollout.folders
        for folder in self._folders - folders:
            self.let_go(folder)
        self._folders = folders
        self._metrics.publish(self.catalog)
        self._publish()

    def _order(self, offer: Offer) -> None:
        for slot in self._slots:
            self._send(slot, self._rollout.order(slot, offer))

    def _put(self, entry: Entry) -> None:
        self._tell_loss(entry)
        self.catalog.put(entry)
        if entry.state is State.UNAVAILABLE:
            self._conclude((entry.name, entry.version), entry.reason)

    def _tell_loss(self, entry: Entry) -> None:
        was_there = self.catalog.has(entry.name, entry.version)
        if entry.state is not State.UNAVAILABLE or not was_there:
            return
        before = self.catalog.entry(entry.name, entry.version)
        if before.state is not State.UNAVAILABLE and entry.is_awaited:
            log.error("model %s version %s is unavailable: %s", entry.name, entry.version, entry.reason)

    def _close(self, change: Swapped | GivenUp) -> None:
        """Tell who waits for the outcome, and let go of a contract that serves no more."""
        match change:
            case Swapped(before, after):
                self._conclude(after.key, "")
                if before is not None and before.entry.contract != after.entry.contract:
                    self._retire(after.key, after.entry.contract)
            case GivenUp(offer, stays, reason):
                self._conclude(offer.key, reason)
                if offer.entry.contract != stays.entry.contract:
                    self._retire(offer.key, stays.entry.contract)

    def _tell(self, change: Swapped | GivenUp) -> None:
        match change:
            case Swapped(None, after):
                if not after.is_final:
                    self._metrics.fell_back(after.entry)
                log.info("%s is ready: %s from %s", _title(after), after.entry.rung, after.entry.origin)
            case Swapped(Offer() as before, Offer() as after):
                self._metrics.swapped(before.entry, after.entry)
                if before.is_final:
                    log.info("%s: loaded anew, %s serves", _title(after), after.entry.rung)
                elif after.entry.rung == before.entry.rung:
                    log.info("%s: %s stays, having passed the race", _title(after), after.entry.rung)
                else:
                    log.info("%s: %s serves now in place of %s", _title(after), after.entry.rung, before.entry.rung)
            case GivenUp(offer, stays, reason):
                log.error("%s: %s; %s stays", _title(offer), reason, stays.entry.rung)


def _title(offer: Offer) -> str:
    return f"model {offer.entry.name} version {offer.entry.version}"
