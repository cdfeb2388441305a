"""Requests to a model whose inputs are padded: are their sizes among those that it takes, and what are its masks?

Pure. `checks.py` asks before a request goes to an engine, `defaults.py` for masks that it leaves out, and the engine
once more, for what comes from other models.
"""

from __future__ import annotations

from collections.abc import Iterable

from compiler.spec import Padding
from service.errors import InvalidInput

Shape = tuple[int, ...]


def read_sizes(pad: Padding, shapes: Iterable[tuple[str, Shape]], model: str) -> dict[str, int]:
    """The size of each dimension in this request, by its tensors' names and shapes.

    Raises InvalidInput where two inputs disagree, or there is more than the model takes.
    """
    found: dict[str, int] = {}
    said: dict[str, str] = {}
    for name, shape in shapes:
        for axis, dimension in pad.inputs.get(name, {}).items():
            size, most = shape[axis], pad.dims[dimension][-1]
            if not 1 <= size <= most:
                remedy = "shorten it" if size else "send one element or more"
                raise InvalidInput(
                    f"input '{name}': dimension {axis}, {dimension}, must be from 1 to {most} for model '{model}', got "
                    f"{size}: {remedy}"
                )
            if found.setdefault(dimension, size) != size:
                raise InvalidInput(
                    f"input '{name}': dimension {axis}, {dimension}, is {size}, but {found[dimension]} in "
                    f"'{said[dimension]}': all inputs of a request share it"
                )
            said.setdefault(dimension, name)
    return found


def mask_shape(pad: Padding, name: str, sizes: dict[str, int], rows: int) -> Shape:
    """Of a mask for a request with these sizes."""
    return rows, *(sizes[dimension] for _, dimension in sorted(pad.inputs[name].items()))
