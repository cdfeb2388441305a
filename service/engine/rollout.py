"""What each version serves now and what it shall serve next: from the quickest safe artifact to the fastest one.

Pure state: `deployment.py` tells it what the loader made and what the engines answered, sends the orders it gives, and
publishes the entries it reads off. `fleet.py` keeps what each engine holds.

    rollout.offered(entry, folder, is_final=False)     # the fallback: engines load it, the version becomes ready
    rollout.offered(entry, folder, is_final=True)      # the winner: loaded beside, then swapped in, or given up
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from msgspec import structs

from service.engine.fleet import Answers, Fleet, Key
from service.engine.messages import Load
from service.engine.offers import CONTRACT, DESCRIPTION, GivenUp, Offer, Swapped, agree
from service.repository.catalog import Entry, Optimization, State


@dataclass(slots=True)
class _Version:
    """`note` is what the compiler does now; `failure` why there is nothing better than what is offered.

    `is_leaving`: frontends are to send no more requests, for the engines will let go of it.
    """

    announced: Entry
    offers: list[Offer] = field(default_factory=list)  # rising generations: what is current first, what is wanted last
    serving: Offer | None = None
    is_being_compiled: bool = True
    is_ready: bool = False
    is_leaving: bool = False
    note: str = ""
    failure: str = ""

    @property
    def generations(self) -> tuple[int, ...]:
        return tuple(offer.generation for offer in self.offers)

    @property
    def is_settled(self) -> bool:
        """Whether what serves is what is wanted."""
        return self.serving is not None and self.serving.generation == self.offers[-1].generation


class Rollout:
    """Every version of every model, on all engines."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        self.fleet = Fleet(devices)
        self._versions: dict[Key, _Version] = {}
        self._generation = 0

    def __repr__(self) -> str:
        return f"<Rollout {len(self._versions)} versions, {self.fleet!r}>"

    def announced(self, entry: Entry) -> None:
        """A version was found; one that is UNAVAILABLE from the start stays so."""
        is_hopeful = entry.state is State.LOADING
        failure = "" if is_hopeful else entry.reason
        self._versions[entry.name, entry.version] = _Version(entry, is_being_compiled=is_hopeful, failure=failure)

    def reloading(self, key: Key) -> None:
        """Another artifact is being made of what serves."""
        version = self._versions[key]
        version.is_being_compiled, version.failure, version.note = True, "", ""

    def kept(self, key: Key, shortfall: str) -> None:
        """What was made again is what serves already."""
        version = self._versions[key]
        version.is_being_compiled, version.failure = False, shortfall

    def leaving(self, key: Key) -> None:
        """Frontends shall send no more requests of this version."""
        self._versions[key].is_leaving = True

    def removed(self, key: Key, entry: Entry | None) -> None:
        """The version is served no more; `entry` says so, None: it is not even there."""
        self.fleet.forget(key)
        del self._versions[key]
        if entry is not None:
            self.announced(entry)

    def serves(self, entry: Entry, folder: str) -> bool:
        """Whether it serves the same artifact in the same way already."""
        version = self._versions.get((entry.name, entry.version))
        serving = version.serving if version is not None else None
        if serving is None or serving.folder != folder:
            return False
        return agree(serving.entry, entry, (*CONTRACT, *DESCRIPTION))

    def progressed(self, key: Key, note: str) -> None:
        """The compiler does something else now."""
        if key in self._versions:  # else it was given up meanwhile
            self._versions[key].note = note

    def compile_failed(self, key: Key, reason: str) -> None:
        """There will be no winner."""
        version = self._versions[key]
        version.is_being_compiled, version.failure = False, reason

    def offered(self, entry: Entry, folder: str, *, is_final: bool, shortfall: str = "") -> Offer:
        """An artifact is there: `order` it from each engine."""
        self._generation += 1
        version = self._versions[entry.name, entry.version]
        before = version.offers[-1].entry if version.offers else None
        contract = before.contract if before is not None and agree(before, entry) else self._generation
        entry = structs.replace(entry, contract=contract, artifact=self._generation)
        offer = Offer(entry, folder, self._generation, is_final, shortfall)
        version.offers.append(offer)
        if is_final:
            version.is_being_compiled, version.failure = False, shortfall
        return offer

    def order(self, slot: int, offer: Offer) -> Load:
        """What to tell an engine of an offer."""
        self.fleet.ordered(slot, offer.order)
        return Load(offer.entry, offer.folder, offer.generation)

    def orders(self, slot: int) -> list[Load]:
        """All that a new engine has to load: what is current of every version, then what shall replace it."""
        self.fleet.starting(slot)
        versions = [version for version in self._versions.values() if version.offers and not version.is_leaving]
        current = [version.offers[0] for version in versions]
        wanted = [offer for version in versions for offer in version.offers[1:]]
        wanted = [offer for offer in wanted if not self.fleet.is_deadly(slot, offer.order)]
        return [self.order(slot, offer) for offer in (*current, *wanted)]

    def loaded(self, slot: int, key: Key, generation: int, seconds: float) -> None:
        """An engine serves a version with this artifact, and took so long to load it."""
        version = self._versions.get(key)
        if version is None:
            return  # it was given up meanwhile
        is_first = not self.fleet.answers((key, generation)).held
        self.fleet.loaded(slot, (key, generation))
        serving = version.serving.generation if version.serving is not None else 0
        if is_first and generation > serving:
            version.offers = [
                offer
                if offer.generation != generation
                else replace(offer, entry=structs.replace(offer.entry, seconds=offer.entry.seconds + seconds))
                for offer in version.offers
            ]

    def failed(self, slot: int, key: Key, generation: int, reason: str) -> None:
        """An engine could not load this artifact."""
        self.fleet.failed(slot, (key, generation), reason)

    def settle(self) -> Iterator[Swapped | GivenUp]:
        """Draw the conclusions of what was told since the last call: yields what changed."""
        for key, version in self._versions.items():
            if version.offers:
                state, _ = self._follow(key, version)
                version.is_ready = state is State.READY
                if version.is_ready and not version.announced.is_awaited:
                    version.announced = structs.replace(version.announced, is_awaited=True)
                yield from self._settle_newest(version)

    def _settle_newest(self, version: _Version) -> Iterator[Swapped | GivenUp]:
        newest = version.offers[-1]
        answers = self.fleet.answers(newest.order)
        if version.is_settled:
            pass
        elif len(version.offers) > 1 and answers.refused and not answers.pending and self._is_lost(version, answers):
            device, reason = next(iter(answers.refused.items()))
            version.offers.pop()
            version.failure = f"{newest.entry.rung} could not be loaded on {device}: {reason}"
            yield GivenUp(newest, version.offers[-1], version.failure)
            yield from self._settle_newest(version)
        elif version.is_ready and answers.held and not answers.pending:
            before, version.serving = version.serving, newest
            yield Swapped(before, newest)
        elif version.is_ready and version.serving is None:
            # What shall replace it came before every engine had loaded the first: that serves until then all the same.
            version.serving = version.offers[0]
            yield Swapped(None, version.serving)
        if version.is_settled and (
            self.fleet.is_everywhere(newest.order) or version.offers[0].entry.contract != newest.entry.contract
        ):
            del version.offers[:-1]  # a successor need not load what was before, or must not

    def _is_lost(self, version: _Version, answers: Answers) -> bool:
        """Whether what was refused somewhere cannot serve anywhere: what changes the requests, all must take."""
        has_other_contract = version.offers[-1].entry.contract != version.offers[-2].entry.contract
        return not answers.held or has_other_contract

    def _follow(self, key: Key, version: _Version) -> tuple[State, str]:
        contract = (version.serving or version.offers[0]).entry.contract
        return self.fleet.follow(key, version.generations, version.is_ready, contract)

    def entries(self) -> Iterator[Entry]:
        """Every version as clients may see it. Call `settle` first."""
        yield from map(self.entry, self._versions)

    def entry(self, key: Key) -> Entry:
        """One version as clients may see it."""
        version = self._versions[key]
        state, reason = self._state(key, version)
        offer = version.serving or (version.offers[0] if version.offers else None)
        return structs.replace(
            offer.entry if offer is not None else version.announced,
            state=state,
            reason=reason,
            optimization=_optimization(version, state),
            progress=self._progress(version, state),
            is_awaited=version.announced.is_awaited,
            is_resuming=state is State.LOADING and version.serving is not None,
        )

    @property
    def folders(self) -> frozenset[str]:
        """Where the artifacts lie that an engine may be asked to load."""
        return frozenset(offer.folder for version in self._versions.values() for offer in version.offers)

    def step_folders(self, key: Key) -> frozenset[str]:
        """Where the Python steps are kept of all that a version serves or shall serve."""
        version = self._versions.get(key)
        offers = version.offers if version is not None else []
        return frozenset(offer.entry.steps.folder for offer in offers if offer.entry.steps is not None)

    def wants(self, key: Key, entry: Entry) -> bool:
        """Whether `entry` is another than what the version serves, or shall serve."""
        version = self._versions[key]
        if version.is_leaving:
            return False
        offers = version.offers
        return not offers or not agree(offers[-1].entry, entry, (*CONTRACT, *DESCRIPTION))

    def _state(self, key: Key, version: _Version) -> tuple[State, str]:
        waiting = f"compiling: {version.note}" if version.note else version.announced.reason
        if version.is_leaving:
            return State.UNLOADING, "it is being unloaded"
        if not version.offers:
            return (State.LOADING, waiting) if version.is_being_compiled else (State.UNAVAILABLE, version.failure)
        state, reason = self._follow(key, version)
        if state is State.UNAVAILABLE and version.is_being_compiled:
            return State.LOADING, f"{waiting}; until then nothing serves: {reason}"
        return state, reason

    def _progress(self, version: _Version, state: State) -> str:
        if version.is_being_compiled:
            return version.note
        if state is not State.READY:
            return ""
        if not version.is_settled:
            return f"loading {version.offers[-1].entry.rung} beside it"
        return version.failure or self._laggards(version)

    def _laggards(self, version: _Version) -> str:
        """Which devices serve on with the artifact before, and why; "" where there are none."""
        refused = self.fleet.answers(version.offers[-1].order).refused if len(version.offers) > 1 else {}
        return "; ".join(
            f"{device} serves on with {version.offers[-2].entry.rung}: {reason}" for device, reason in refused.items()
        )


def _optimization(version: _Version, state: State) -> Optimization:
    if version.is_being_compiled:
        return "compiling"
    if state is not State.READY or version.serving is None:
        return ""
    if not version.is_settled:
        return "compiling"
    return "optimised" if version.serving.is_final and not version.serving.shortfall else "fallback"
