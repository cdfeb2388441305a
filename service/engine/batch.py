"""Requests to one batch, and one batch back to the answers of its requests.

Pure on shapes and buffers; knows nothing of torch or sockets. `models.py` calls it around `runtime/runner.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stacked:
    """For each input: the bytes of every request in order, and the shape of the padded batch."""

    parts: list[list[memoryview]]
    shapes: list[tuple[int, ...]]


def stack(
    requests: Sequence[tuple[Sequence[tuple[int, ...]], Sequence[memoryview]]], bucket: int, batched: bool
) -> Stacked:
    """`requests` are (shapes, tensors), one of each per input; all shapes are equal but for the batch dimension."""
    first_shapes = requests[0][0]
    parts = [[tensors[index] for _, tensors in requests] for index in range(len(first_shapes))]
    shapes = [(bucket, *shape[1:]) if batched else tuple(shape) for shape in first_shapes]
    return Stacked(parts, shapes)


def unstack(
    shape: tuple[int, ...], data: memoryview, rows: Sequence[int], bucket: int
) -> list[tuple[tuple[int, ...], memoryview]]:
    """One output of the batch as (shape, bytes) per request, the padding left out. Nothing is copied.

    Raises ValueError where the model's output does not have the batch's rows.
    """
    if not shape or shape[0] != bucket:
        raise ValueError(f"an output has shape {list(shape)} for a batch of {bucket} rows")
    row_bytes, at, parts = len(data) // bucket, 0, []
    shapes = {count: (count, *shape[1:]) for count in set(rows)}
    for count in rows:
        end = at + count * row_bytes
        parts.append((shapes[count], data[at:end]))
        at = end
    return parts
