"""Keeps what goes on while a model is compiled: the stage, every rung's state, how long each stage took.

Knows nothing of processes or of who listens. `pipeline.py` writes it; a listener gets a `Progress` for each change and
at least once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from compiler.jobs import Note
from compiler.ladder import Planned
from compiler.spec import Rung


class RungState(msgspec.Struct, frozen=True):
    """One rung as far as it has come: `waiting`, `building`, `built`, `verifying`, `racing`, or its final outcome.

    `seconds` is how long its build took, or takes so far.
    """

    name: str
    state: str
    seconds: float = 0.0
    reason: str = ""


class Progress(msgspec.Struct, frozen=True):
    """What is going on: repeated every second, so that a listener may stop the work by raising.

    `stage` is "load", "reference", "build", "verify", ...; `candidate` the name of a rung; `rungs` the whole ladder
    once it is planned.
    """

    stage: str
    candidate: str | None
    elapsed_s: float
    message: str
    rungs: tuple[RungState, ...] = ()


STATES = {"build": "building", "quantize": "building", "verify": "verifying", "race": "racing"}  # by stage


@dataclass
class Journal:
    """`hear(note)` for each thing begun, `settle` for each rung that has an outcome."""

    report: Callable[[Progress], None]
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    current: Note = field(default_factory=lambda: Note("start", "starting"))
    since: float = field(default_factory=time.monotonic)
    rungs: dict[str, RungState] = field(default_factory=dict)
    _building_since: dict[str, float] = field(default_factory=dict)

    def plan(self, planned: tuple[Planned, ...]) -> None:
        """The ladder is known."""
        self.rungs = {one.rung.name: RungState(one.rung.name, "waiting") for one in planned}

    def settle(self, rung: Rung, state: str, reason: str = "") -> None:
        """A rung was built or lost."""
        seconds = self._seconds(rung.name)
        self.rungs[rung.name] = RungState(rung.name, state, seconds, reason)
        self._building_since.pop(rung.name, None)

    def hear(self, note: Note | None) -> None:
        """A new note, or None: the last one goes on."""
        now = time.monotonic()
        if note is not None:
            self.seconds[self.current.stage] = self.seconds.get(self.current.stage, 0.0) + now - self.since
            self.current, self.since = note, now
            self._follow(note, now)
        self.report(
            Progress(
                self.current.stage,
                self.current.candidate,
                now - self.started,
                self.current.message,
                tuple(self._live(state) for state in self.rungs.values()),
            )
        )

    def _follow(self, note: Note, now: float) -> None:
        state = STATES.get(note.stage)
        if note.candidate in self.rungs and state is not None:
            if state == "building":
                self._building_since.setdefault(note.candidate, now)
            kept = self.rungs[note.candidate]
            self.rungs[note.candidate] = msgspec.structs.replace(kept, state=state)

    def _live(self, state: RungState) -> RungState:
        return msgspec.structs.replace(state, seconds=self._seconds(state.name))

    def _seconds(self, name: str) -> float:
        since = self._building_since.get(name)
        if since is not None:
            return round(time.monotonic() - since, 3)
        return self.rungs[name].seconds if name in self.rungs else 0.0
