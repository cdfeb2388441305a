"""Reads an exported program's own account of what it takes and gives: names, datatypes, dimensions that vary.

Knows nothing of declarations or of running the program. `resolve.py` compares this account with the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from compiler.datatypes import DATATYPES
from compiler.errors import LoadFailed
from compiler.resolve import Signature
from compiler.spec import TensorSpec

NO_LIMIT = 2**31  # torch writes "no upper bound" as a huge number


def read_program(program: ExportedProgram, file: str) -> Signature:
    """Raises LoadFailed where an input or output is no tensor, or its dtype has no datatype in the protocol."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    given = _values(program.graph_signature.user_inputs, values)
    returned = _values(program.graph_signature.user_outputs, values)
    names = _output_names(program.call_spec.out_spec, len(returned), file)
    inputs = tuple(_read(name, value, "input", file, program) for name, value in given)
    outputs = tuple(_read(name, value, "output", file) for name, (_, value) in zip(names, returned, strict=True))
    tensors = [(f"input '{name}'", value) for name, value in given]
    tensors += [(f"output '{name}'", value) for name, (_, value) in zip(names, returned, strict=True)]
    why_not = _why_no_batch(tensors)
    limit = None if why_not else _upper(program, given[0][1].shape[0])
    return Signature(inputs, outputs, why_not, limit)


def read_outputs(tensors: tuple[torch.Tensor, ...], names: tuple[str, ...] | None, file: str) -> tuple[TensorSpec, ...]:
    """The specs of tensors that a model returned, with their sizes as they are."""
    names = names or default_names(len(tensors))
    return tuple(_read(name, tensor, "output", file) for name, tensor in zip(names, tensors, strict=True))


def default_names(count: int) -> tuple[str, ...]:
    """`output` for one; `output_0`, `output_1`, ... for several."""
    return ("output",) if count == 1 else tuple(f"output_{index}" for index in range(count))


def _values(names: Any, values: dict[str, Any]) -> list[tuple[str, Any]]:
    # A constant among the inputs or outputs stands there as itself, not as a name.
    return [(str(name), values.get(name) if isinstance(name, str) else name) for name in names]


def _output_names(spec: Any, count: int, file: str) -> tuple[str, ...]:
    """Names by the shape of what the program returns, seen by building one out of numbers."""
    match pytree.tree_unflatten(list(range(count)), spec):
        case int():
            return ("output",)
        case dict() as result if all(isinstance(leaf, int) for leaf in result.values()):
            return tuple(str(name) for name in result)
        case tuple() | list() as result if all(isinstance(leaf, int) for leaf in result):
            return default_names(count)
    raise LoadFailed(
        f"{file} returns nested outputs: export a module that returns a tensor, a tuple or a dict of tensors"
    )


def _read(name: str, value: Any, what: str, file: str, program: ExportedProgram | None = None) -> TensorSpec:
    if not isinstance(value, torch.Tensor):
        raise LoadFailed(
            f"{file} has the {what} '{name}' of type {type(value).__name__}: only tensors can be served; "
            "make it a tensor, or a constant inside the module"
        )
    if value.dtype not in DATATYPES:
        raise LoadFailed(
            f"{file} has the {what} '{name}' of {value.dtype}, which no client can send or read: convert it"
        )
    shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
    if program is None or -1 not in shape:
        return TensorSpec(name, DATATYPES[value.dtype], shape)
    example = tuple(size if isinstance(size, int) else _example(program, size) for size in value.shape)
    return TensorSpec(name, DATATYPES[value.dtype], shape, example_shape=example)


def _example(program: ExportedProgram, size: torch.SymInt) -> int:
    """The size at which the program was exported, with room for one more; -1 where it does not tell."""
    hint = size.node.hint
    if not isinstance(hint, int):
        return -1
    upper = _upper(program, size)
    return hint - 1 if upper == hint and hint > 1 else hint


def _why_no_batch(tensors: list[tuple[str, Any]]) -> str:
    firsts = [(name, value.shape[0] if value.dim() else None) for name, value in tensors]
    for name, size in firsts:
        if not isinstance(size, torch.SymInt):
            return f"the first dimension of {name} is fixed" if size is not None else f"{name} has no dimensions"
    symbols = {str(size.node.expr) for _, size in firsts if isinstance(size, torch.SymInt)}
    if len(symbols) != 1:
        return f"the first dimensions of {firsts[0][0]} and the others vary independently"
    return ""


def _upper(program: ExportedProgram, size: torch.SymInt) -> int | None:
    """The largest batch that the program allows, None where it says nothing."""
    bounds = program.range_constraints.get(size.node.expr)
    upper = getattr(bounds, "upper", None)
    try:
        limit = int(upper) if upper is not None else None
    except (OverflowError, TypeError, ValueError):  # symbolic infinity is no int
        return None
    return limit if limit is not None and limit < NO_LIMIT else None
