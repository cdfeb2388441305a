"""Counts how many labelled samples a model classifies right.

Knows nothing of files or thresholds. `reference.py` asks it of the reference, `judge.py` of each candidate.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compiler.jobs import Interface


def measure_accuracy(
    model: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    labels: Tensor,
    interface: Interface,
    device: str,
) -> float:
    """Top-1 accuracy, 0 to 1: the first output's largest class against `labels`, int64 [rows].

    `inputs` hold all rows on the CPU; they are run in batches of the largest bucket.
    """
    size = interface.max_batch_size
    right = 0
    for start in range(0, len(labels), size):
        rows = tuple(tensor[start : start + size].to(device) for tensor in inputs)
        scores = model(rows)[0].detach().cpu()
        right += int((scores.flatten(1).argmax(dim=1) == labels[start : start + size]).sum())
    return right / len(labels) if len(labels) else 0.0


def can_be_classified(outputs: tuple[Tensor, ...], labels: Tensor) -> str:
    """Why labels say nothing of a model with such outputs; "" where they do."""
    first = outputs[0]
    if first.dim() != 2 or first.shape[1] < 2:
        return f"its first output has shape {list(first.shape)}, where [rows, classes] is needed"
    largest = int(labels.max()) if len(labels) else 0
    if largest >= first.shape[1] or (len(labels) and int(labels.min()) < 0):
        return f"a label is {largest}, where there are {first.shape[1]} classes (0 to {first.shape[1] - 1})"
    return ""
