"""Stores golden cases and labelled samples in safetensors files, and reads them back.

Knows nothing of models. `reference.py` writes them, `judge.py` reads them in another process.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler.jobs import Case


def store_case(case: Case, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    """Write the inputs and the reference's outputs of a case."""
    tensors = {f"in.{index}": tensor.contiguous() for index, tensor in enumerate(inputs)}
    tensors |= {f"out.{index}": tensor.clone().contiguous() for index, tensor in enumerate(outputs)}
    save_file(tensors, case.path)


def read_case(case: Case) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and the reference's outputs of a case, on the CPU."""
    tensors = load_file(case.path)
    return _ordered(tensors, "in."), _ordered(tensors, "out.")


def store_samples_case(path: Path, inputs: tuple[Tensor, ...], labels: Tensor) -> None:
    """Write the labelled samples, all rows."""
    save_file({**{f"in.{i}": tensor.contiguous() for i, tensor in enumerate(inputs)}, "label": labels}, path)


def read_samples_case(path: str) -> tuple[tuple[Tensor, ...], Tensor]:
    """The inputs, all rows, and their labels, on the CPU."""
    tensors = load_file(path)
    return _ordered(tensors, "in."), tensors["label"]


def _ordered(tensors: dict[str, Tensor], prefix: str) -> tuple[Tensor, ...]:
    names = [name for name in tensors if name.startswith(prefix)]
    return tuple(tensors[name] for name in sorted(names, key=lambda name: int(name.removeprefix(prefix))))
