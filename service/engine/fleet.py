"""What the engines hold between them: which versions are ready, and which engines frontends may use.

Pure state: `serve.py` tells it what happened to each engine and reads off states and addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from service.engine.messages import EngineAddress
from service.repository.catalog import Entry, State

Key = tuple[str, str]  # name, version


@dataclass(slots=True)
class _Engine:
    device: str
    address: EngineAddress | None = None
    loaded: set[Key] = field(default_factory=set)
    failed: dict[Key, str] = field(default_factory=dict)


class Fleet:
    """One slot per device; an engine that dies leaves its slot to its successor."""

    def __init__(self, devices: tuple[str, ...]) -> None:
        self._engines = [_Engine(device) for device in devices]

    def __repr__(self) -> str:
        parts = [f"{e.device} {'up' if e.address else 'down'} {len(e.loaded)} loaded" for e in self._engines]
        return f"<Fleet {', '.join(parts)}>"

    def started(self, slot: int, address: EngineAddress) -> None:
        """A new process listens there; it has loaded nothing."""
        self._engines[slot] = _Engine(self._engines[slot].device, address)

    def died(self, slot: int) -> None:
        """The process is gone, and all it had loaded."""
        self._engines[slot] = _Engine(self._engines[slot].device)

    def loaded(self, slot: int, key: Key) -> None:
        self._engines[slot].loaded.add(key)
        self._engines[slot].failed.pop(key, None)

    def failed(self, slot: int, key: Key, reason: str) -> None:
        self._engines[slot].failed[key] = reason

    def follow(self, entry: Entry) -> tuple[State, str]:
        """The state of a version whose artifact is there, and the reason where it is not ready."""
        key = entry.name, entry.version
        live = [engine for engine in self._engines if engine.address is not None]
        holders = [engine for engine in live if key in engine.loaded]
        if holders and (entry.is_ready or len(holders) == len(live)):
            return State.READY, ""
        failures = [engine.failed[key] for engine in live if key in engine.failed]
        if failures:
            return State.UNAVAILABLE, f"the engine could not load it: {failures[0]}"
        if not live:
            return State.LOADING, "the engine is being restarted"
        return State.LOADING, "the engine is loading it"

    def usable(self, ready: frozenset[Key]) -> tuple[EngineAddress, ...]:
        """The engines that hold all that is ready, so that any of them can take any request."""
        return tuple(e.address for e in self._engines if e.address is not None and ready <= e.loaded)
