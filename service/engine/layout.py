"""The inputs of one batch of a model with state: what clients sent, at their rows, and the controls between them.

Pure on shapes and buffers; knows nothing of torch. `sequenced.py` lays a batch with it, the runner adds the state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.spec import TensorSpec
from service.engine.turns import Id, Turn
from service.repository.scheduling import Sequencing
from service.repository.stateful import named_controls
from service.tensors import NUMPY_TYPES

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Control:
    kind: str  # start, end, ready or id
    datatype: str
    row: Shape

    def fill(self, turns: Sequence[Turn], rows: Sequence[int], bucket: int) -> memoryview:
        """Its values for a whole batch; zeros where no request is."""
        values = np.zeros(bucket, NUMPY_TYPES[self.datatype])
        for turn, row in zip(turns, rows, strict=True):
            values[row] = self._value(turn, values.itemsize)
        return memoryview(values.tobytes())

    def _value(self, turn: Turn, size: int) -> Any:
        match self.kind:
            case "start":
                return int(turn.point.is_start)
            case "end":
                return int(turn.point.is_end)
            case "ready":
                return 1
        return np.frombuffer(number_of(turn.point.id).to_bytes(8, "little")[:size], NUMPY_TYPES[self.datatype])[0]


def number_of(identity: Id) -> int:
    """A sequence's number for its model, below 2^64; a text is digested to one."""
    if isinstance(identity, int):
        return identity
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "little")


class Layout:
    """`lay(turns, shapes_and_tensors, rows, bucket)`, of the artifact's inputs that are not state, in their order."""

    def __init__(self, sequencing: Sequencing, host_inputs: Sequence[TensorSpec], *, batched: bool) -> None:
        self._batched = batched
        kinds = {name: kind for kind, name in named_controls(sequencing)}
        self._controls = [
            _Control(kinds[spec.name], spec.datatype, spec.shape[1:] if batched else spec.shape)
            if spec.name in kinds
            else None
            for spec in host_inputs
        ]

    def lay(
        self,
        turns: Sequence[Turn],
        requests: Sequence[tuple[Sequence[Shape], Sequence[memoryview]]],
        rows: Sequence[int],
        bucket: int,
    ) -> tuple[list[list[memoryview]], list[Shape]]:
        """The bytes of each input row by row, and its shape. `requests` are all of one shape, with one row each."""
        parts: list[list[memoryview]] = []
        shapes: list[Shape] = []
        sent = 0
        for control in self._controls:
            if control is not None:
                parts.append([control.fill(turns, rows, bucket)])
                shapes.append((bucket, *control.row) if self._batched else control.row)
                continue
            first = requests[0][0][sent]
            parts.append(_spread([tensors[sent] for _, tensors in requests], rows))
            shapes.append((bucket, *first[1:]) if self._batched else tuple(first))
            sent += 1
        return parts, shapes


def _spread(blobs: Sequence[memoryview], rows: Sequence[int]) -> list[memoryview]:
    """The rows that hold a request, and zeros for those between them."""
    if list(rows) == list(range(len(rows))):
        return list(blobs)
    by_row = dict(zip(rows, blobs, strict=True))
    empty = memoryview(bytes(len(blobs[0])))
    return [by_row.get(row, empty) for row in range(max(rows) + 1)]
