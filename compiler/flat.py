"""Gives every model one calling convention: tensors in, in the order of its inputs; a tuple of tensors out.

Knows nothing of files or backends. `load.py` opens what is wrapped here; every backend builds from a `Flat`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compiler.errors import LoadFailed
from compiler.load import Opened


class Flat(nn.Module):
    """`Flat(opened, names)(x, y)` -> a tuple of tensors in the order of `names`.

    A program's keyword and nested inputs are put back into place as its call specification says. Without `names` the
    model's own order is kept.
    """

    def __init__(self, opened: Opened, names: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.model = opened.module
        self._names = names
        self._in_spec = opened.program.call_spec.in_spec if opened.program is not None else None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return pick_outputs(self.call(*inputs), self._names)

    def call(self, *inputs: Tensor) -> Any:
        """What the model itself returns."""
        if self._in_spec is None:
            return self.model(*inputs)
        args, kwargs = pytree.tree_unflatten(list(inputs), self._in_spec)
        return self.model(*args, **kwargs)


def name_outputs(result: Any) -> tuple[tuple[str, ...] | None, tuple[Tensor, ...]]:
    """The tensors that a model returned, with their names where it returned a mapping.

    Raises LoadFailed for anything but a tensor, a tuple or list of tensors, or a mapping of names to tensors.
    """
    names: tuple[str, ...] | None = None
    tensors: tuple[Any, ...] = ()
    match result:
        case Tensor():
            tensors = (result,)
        case Mapping():
            names, tensors = tuple(str(name) for name in result), tuple(result.values())
        case tuple() | list():
            tensors = tuple(result)
    wrong = [tensor for tensor in tensors if not isinstance(tensor, Tensor)]
    if wrong or not tensors:
        what = f"{type(result).__name__} with {type(wrong[0]).__name__} inside" if wrong else type(result).__name__
        raise LoadFailed(
            f"returns {what}: a served model returns a tensor, a tuple of tensors, or a dict of names to tensors; "
            "wrap it in a module that does"
        )
    return names, tensors


def pick_outputs(result: Any, names: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The tensors of `result` in the order of `names`; a mapping is asked by name, anything else has its own order."""
    if isinstance(result, Mapping) and names:
        return tuple(result[name] for name in names)
    if isinstance(result, torch.Tensor):
        return (result,)
    return tuple(result.values()) if isinstance(result, Mapping) else tuple(result)
