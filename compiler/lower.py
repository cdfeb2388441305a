"""Turns an opened model into an exported program whose batch is dynamic.

Knows nothing of backends. Refusing is normal for models with decisions on data: only the rungs that need a program
are lost. `backends/inductor.py` and, where tracing would freeze something, `backends/torchscript.py` ask for one.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.numbers import int_oo

from compiler.datatypes import quiet_torchscript
from compiler.errors import LowerFailed
from compiler.flat import Flat
from compiler.golden import random_inputs
from compiler.jobs import Interface
from compiler.load import Opened
from compiler.padding import limits

EXAMPLE_SEED = 0

Limits = dict[tuple[int, int], tuple[int, int]]  # position of an input, axis -> least and greatest size


def example_batch(interface: Interface) -> int:
    """Rows of the example: 2 or more, for torch.export takes 0 and 1 for constants; 1 where no more are served."""
    return min(2, interface.max_batch_size)


def example_inputs(interface: Interface, device: str, rows: int | None = None) -> tuple[Tensor, ...]:
    """Inputs to trace or export with, on `device`: `rows` of them, else as few as an export may have."""
    inputs = random_inputs(interface.inputs, example_batch(interface) if rows is None else rows, EXAMPLE_SEED)
    return tuple(tensor.to(device) for tensor in inputs)


def lower(
    opened: Opened, interface: Interface, device: str, rows: int | None = None, *, is_fixed: bool = False
) -> ExportedProgram:
    """A program of positional tensors to a tuple, in the interface's order. Raises LowerFailed with torch's reason.

    `rows` is the batch size of the example, which some compilers tune for; `is_fixed`: the program takes no other.
    """
    example = example_inputs(interface, device, rows)
    module: nn.Module = Flat(opened, tuple(spec.name for spec in interface.outputs))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # A decision on a constant, as a script has many, is settled by the export.
            warnings.filterwarnings("ignore", message="Pred is a Python constant", category=UserWarning)
            if opened.kind == "torchscript":
                module = _convert_torchscript(opened.module, example, interface)
            bounds = {**limits(interface.pad, interface.inputs), **find_limits(opened)}
            return _export(module, example, interface, bounds, is_fixed)
    except Exception as error:  # torch.export raises many kinds, private ones too
        first = " ".join(str(error).split())[:500]
        raise LowerFailed(f"torch.export cannot capture the model: {type(error).__name__}: {first}") from error


def sizes_are_read(graph: fx.Graph) -> bool:
    """Whether an exported graph reads the size of a tensor, which tracing would freeze to the example's."""
    return any(node.target is torch.ops.aten.sym_size.int for node in graph.nodes)


def find_limits(opened: Opened) -> Limits:
    """How far each size may vary in the program that the model came as; nothing is known of other models."""
    found: Limits = {}
    if not isinstance(opened.module, fx.GraphModule):
        return found
    for position, node in enumerate(node for node in opened.module.graph.nodes if node.op == "placeholder"):
        value = node.meta.get("val")
        for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if isinstance(size, torch.SymInt):
                bounds = size.node.shape_env.bound_sympy(size.node.expr)
                if bounds.upper != int_oo:
                    found[position, axis] = int(bounds.lower), int(bounds.upper)
    return found


def _export(
    module: nn.Module, example: tuple[Tensor, ...], interface: Interface, limits: Limits, is_fixed: bool
) -> ExportedProgram:
    """First with the batch bounded by us; where torch disagrees about its bounds, as torch finds them."""
    if is_fixed:
        return torch.export.export(module, example, dynamic_shapes=_shapes(interface, None, limits), strict=False)
    try:
        bounded = Dim("batch", min=1, max=max(interface.max_batch_size, 2))  # unused below 2
        return torch.export.export(module, example, dynamic_shapes=_shapes(interface, bounded, limits), strict=False)
    except Exception:  # noqa: BLE001 - the second attempt's reason is the one that counts
        return torch.export.export(module, example, dynamic_shapes=_shapes(interface, Dim.AUTO, {}), strict=False)


def _shapes(interface: Interface, batch: Any, limits: Limits) -> dict[str, Any]:
    """One set of dimensions for each input, in the form that `Flat.forward(*inputs)` needs; `batch` None: fixed."""
    dimensions = []
    for position, spec in enumerate(interface.inputs):
        open_axes: dict[int, Any] = {
            axis: _open_size(limits.get((position, axis))) for axis, size in enumerate(spec.shape) if size == -1
        }
        if interface.max_batch_size:
            open_axes.pop(0, None)
            if interface.max_batch_size > 1 and batch is not None:
                open_axes[0] = batch
        dimensions.append(open_axes)
    return {"inputs": tuple(dimensions)}


def _open_size(limits: tuple[int, int] | None) -> Any:
    return Dim.AUTO if limits is None else Dim.AUTO(min=limits[0], max=limits[1])


def _convert_torchscript(script: nn.Module, example: tuple[Tensor, ...], interface: Interface) -> nn.Module:
    """TorchScript cannot be exported itself; torch's own (private) converter makes a program of it, which can."""
    from torch._export.converter import TS2EPConverter

    logging.getLogger("torch._export").setLevel(logging.ERROR)  # it reports every specialised size
    assert isinstance(script, torch.jit.ScriptModule), "load.py opens a .pt as TorchScript"
    with quiet_torchscript():
        # The counter of a batch norm is state that inference never reads.
        warnings.filterwarnings("ignore", message="Manually populate .* into state_dict", category=UserWarning)
        program = TS2EPConverter(script, example).convert()
    names = tuple(spec.name for spec in interface.outputs)
    return Flat(Opened("pt2", program.module(check_guards=False), program), names)
