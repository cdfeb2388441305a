"""Requests of sequences and the clock by which they come. Not a test."""

from __future__ import annotations

from typing import Any

from service.engine.sequences import Sequences
from service.engine.slots import Policy
from service.engine.turns import Run, Turn
from service.tensors import SequencePoint


def policy(**changes: Any) -> Policy:
    values: dict[str, Any] = {"strategy": "oldest", "instances": 1, "rows": 4, "buckets": (1, 2, 4), "max_sequences": 3}
    return Policy(**{**values, **changes})


def turn(identity: int | str, flags: tuple[bool, bool] = (False, False), arrived: float = 0.0, **more: Any) -> Turn:
    return Turn(SequencePoint(identity, *flags), "shape", arrived, **more)


class Bench:
    """Sequences and the time."""

    def __init__(self, **changes: Any) -> None:
        self.sequences = Sequences("m", policy(**changes))
        self.now = 0.0

    def add(self, identity: int | str, flags: tuple[bool, bool] = (False, False), **more: Any) -> Turn:
        added = turn(identity, flags, self.now, **more)
        self.sequences.add(added, self.now)
        return added

    def poll(self, instance: int = 0) -> Any:
        return self.sequences.poll(instance, self.now)

    def run(self, instance: int = 0, *, has_run: bool = True) -> tuple[int | str, ...]:
        """What runs next, and is finished; by sequence."""
        decision = self.poll(instance)
        assert isinstance(decision, Run), decision
        for each in decision.turns:
            self.sequences.finished(each, self.now, has_run=has_run)
        return tuple(each.point.id for each in decision.turns)
