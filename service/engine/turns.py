"""The requests of sequences, and what `sequences.py` decides about them, as values.

Pure. `sequenced.py` makes a Turn of each request and acts on the decisions.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from service.errors import ServiceError
from service.tensors import SequencePoint

Id = int | str


@dataclass(slots=True, eq=False)
class Turn:
    """One request. `shape` is what must be equal for two of them to share a batch; `payload` belongs to the caller."""

    point: SequencePoint
    shape: Hashable
    arrived: float
    deadline: float | None = None
    payload: Any = None
    is_waiting: bool = True  # False: it runs, or it expired, was cancelled or refused, and is skipped in its turn


@dataclass(frozen=True, slots=True)
class Run:
    """Run these together, each at its row of a batch padded to `bucket` rows, on the state in its slot.

    `reason` says why now: full (no other could join), idle, or the delay is over.
    """

    turns: tuple[Turn, ...]
    rows: tuple[int, ...]
    slots: tuple[int, ...]
    bucket: int
    reason: str = field(default="idle", compare=False)


@dataclass(frozen=True, slots=True)
class Expire:
    """Tell these that their time ran out; they must not run."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell each of these why it cannot run any more."""

    turns: tuple[tuple[Turn, ServiceError], ...]
