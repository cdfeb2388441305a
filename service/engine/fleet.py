"""What the engines hold between them: which artifact of each version, and which engines frontends may use.

Pure state: `rollout.py` tells it what happened to each engine, and decides from what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from service.engine.messages import EngineAddress
from service.repository.catalog import State

Key = tuple[str, str]  # name, version
Order = tuple[Key, int]  # a version, and the generation of the artifact to load for it

MAX_DEATHS = 2  # one may have another cause; after two deaths over the same artifact it is the artifact


@dataclass(frozen=True, slots=True)
class Answers:
    """What the live engines said to one order: those that hold it, why others could not, how many have yet to say."""

    held: tuple[str, ...]  # devices
    refused: dict[str, str]  # device -> reason
    pending: int


@dataclass(slots=True)
class _Engine:
    device: str
    address: EngineAddress | None = None
    held: dict[Key, int] = field(default_factory=dict)
    failed: dict[Order, str] = field(default_factory=dict)
    unanswered: list[Order] = field(default_factory=list)
    deaths: dict[Order, int] = field(default_factory=dict)  # outlives the process


class Fleet:
    """One slot per device; an engine that dies leaves its slot to its successor."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        self._engines = [_Engine(device) for device in devices]

    def __repr__(self) -> str:
        parts = [f"{e.device} {'up' if e.address else 'down'} {len(e.held)} loaded" for e in self._engines]
        return f"<Fleet {', '.join(parts)}>"

    def started(self, slot: int, address: EngineAddress) -> None:
        """A new process listens there."""
        self._engines[slot].address = address

    def died(self, slot: int) -> None:
        """The process is gone, and all it had loaded; what it was loading is suspected."""
        old = self._engines[slot]
        if old.unanswered:
            suspect = old.unanswered[0]  # an engine loads one after the other
            old.deaths[suspect] = old.deaths.get(suspect, 0) + 1
        self._engines[slot] = _Engine(old.device, deaths=old.deaths)

    def starting(self, slot: int) -> None:
        """A new process begins: what was ordered while there was none is ordered anew."""
        self._engines[slot].unanswered.clear()

    def ordered(self, slot: int, order: Order) -> None:
        """The engine was told to load this after what it was told before; it will answer."""
        self._engines[slot].unanswered.append(order)

    def loaded(self, slot: int, order: Order) -> None:
        """The engine serves a version with this artifact."""
        key, generation = order
        engine = self._engines[slot]
        engine.held[key] = generation
        engine.failed.pop(order, None)
        engine.deaths.pop(order, None)
        _forget(engine, order)

    def failed(self, slot: int, order: Order, reason: str) -> None:
        """The engine could not load this artifact, and serves what it served before."""
        self._engines[slot].failed[order] = reason
        _forget(self._engines[slot], order)

    def is_settled(self, slot: int) -> bool:
        """Whether the engine has answered all that was asked of it."""
        return self._engines[slot].address is not None and not self._engines[slot].unanswered

    def is_deadly(self, slot: int, order: Order) -> bool:
        """Whether the engine died over this artifact so often that it must not be asked again."""
        return self._engines[slot].deaths.get(order, 0) >= MAX_DEATHS

    def answers(self, order: Order) -> Answers:
        """Where one artifact stands."""
        key, generation = order
        held, refused, pending = [], {}, 0
        for slot, engine in enumerate(self._engines):
            if engine.address is None:
                continue
            if engine.held.get(key, 0) >= generation:
                held.append(engine.device)
            elif order in engine.failed:
                refused[engine.device] = engine.failed[order]
            elif self.is_deadly(slot, order):
                refused[engine.device] = f"the engine died {MAX_DEATHS} times while it loaded it"
            else:
                pending += 1
        return Answers(tuple(held), refused, pending)

    def is_everywhere(self, order: Order) -> bool:
        """Whether every engine holds it, and none is down that might need what was before."""
        return len(self.answers(order).held) == len(self._engines)

    def forget(self, key: Key) -> None:
        """The version is served no more, and nothing is asked of the engines about it."""
        for engine in self._engines:
            engine.held.pop(key, None)
            engine.failed = {order: reason for order, reason in engine.failed.items() if order[0] != key}
            engine.unanswered = [order for order in engine.unanswered if order[0] != key]

    @property
    def live(self) -> tuple[int, ...]:
        """The slots whose engines are up."""
        return tuple(slot for slot, engine in enumerate(self._engines) if engine.address is not None)

    def follow(self, key: Key, generations: Collection[int], was_ready: bool, contract: int = 0) -> tuple[State, str]:
        """The state of a version that these artifacts can serve, and the reason where it is not ready.

        Those older than `contract` can not: they would not understand the requests.
        """
        live = [engine for engine in self._engines if engine.address is not None]
        holders = [engine for engine in live if engine.held.get(key, -1) >= contract]
        if holders and (was_ready or len(holders) == len(live)):
            return State.READY, ""
        for engine in live:
            reasons = [engine.failed[key, number] for number in generations if (key, number) in engine.failed]
            if key not in engine.held and reasons and len(reasons) == len(generations):
                return State.UNAVAILABLE, f"the engine could not load it: {reasons[-1]}"
        if not live:
            return State.LOADING, "the engine is being restarted"
        return State.LOADING, "the engine is loading it"

    def usable(self, ready: Mapping[Key, int]) -> tuple[EngineAddress, ...]:
        """The engines that hold all that is ready, at its contract or newer, so that any can take any request."""
        return tuple(
            engine.address
            for engine in self._engines
            if engine.address is not None
            and all(engine.held.get(key, -1) >= contract for key, contract in ready.items())
        )


def _forget(engine: _Engine, order: Order) -> None:
    if order in engine.unanswered:
        engine.unanswered.remove(order)
