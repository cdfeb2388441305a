"""Keeps the sizes of tensors where they are read, so that none crosses from an engine into another part.

An engine hands a size out as a tensor on the GPU: whoever takes it waits for the GPU, no CUDA graph can hold that call,
and tracing freezes the number. Most sizes need not be read at all (`view(y, [batch, 8])` is `view(y, [-1, 8])`); the
others are read again from the model's own inputs. `tensorrt.py` calls this before and after it compiles.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from compiler.hybrid import ENGINE_PREFIX

VIEWS = (torch.ops.aten.view.default, torch.ops.aten.reshape.default, torch.ops.aten._unsafe_view.default)
EXPAND = torch.ops.aten.expand.default
READ_SIZE = torch.ops.aten.sym_size.int
SIZES = (READ_SIZE, torch.ops.aten.sym_numel.default)


def drop_needless_sizes(program: ExportedProgram) -> None:
    """Write -1 for the one open size of a view, and for every size that an expansion keeps."""
    graph = program.graph
    for node in graph.nodes:
        if node.op != "call_function" or not any(isinstance(size, fx.Node) for size in _sizes_given(node)):
            continue
        value, source = node.meta.get("val"), node.args[0].meta.get("val")
        if not isinstance(value, Tensor) or not isinstance(source, Tensor):
            continue
        if node.target in VIEWS:
            sizes = infer_one(tuple(value.shape))
        else:
            sizes = keep_same(tuple(source.shape), _sizes_given(node))
        if sizes is not None:
            node.args = (node.args[0], sizes, *node.args[2:])
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def infer_one(shape: tuple[int | torch.SymInt, ...]) -> list[int] | None:
    """`shape` with -1 for its open size; None where several are open, or one is zero and -1 would be ambiguous."""
    open_axes = [axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt)]
    known = [size for size in shape if isinstance(size, int)]
    if len(open_axes) != 1 or 0 in known:
        return None
    return [-1 if isinstance(size, torch.SymInt) else size for size in shape]


def keep_same(source: tuple[int | torch.SymInt, ...], sizes: list[Any]) -> list[Any]:
    """The sizes of an expansion, -1 for each that `source` has already."""
    offset = len(sizes) - len(source)
    return [-1 if axis >= offset and _is_same(source[axis - offset], size) else size for axis, size in enumerate(sizes)]


def crossing_sizes(plan: fx.GraphModule) -> dict[str, dict[int, Any]]:
    """The sizes that each engine hands out: name of the child -> index of the result -> the size as an expression."""
    found: dict[str, dict[int, Any]] = {}
    for name, child in plan.named_children():
        if name.startswith(ENGINE_PREFIX) and isinstance(child, fx.GraphModule):
            values = [result.meta.get("val") for result in child_results(child)]
            found[name] = {index: value.node.expr for index, value in enumerate(values) if _is_size(value)}
    return {name: sizes for name, sizes in found.items() if sizes}


def read_sizes_again(module: fx.GraphModule, plan: fx.GraphModule) -> None:
    """Let the parts in PyTorch take sizes from the model's inputs, not from engines.

    What is no plain size of an input stays as it is; then the file cannot be traced, which `reads_sizes` says.
    """
    axes = input_axes(plan)
    inputs = {node.name: node for node in module.graph.nodes if node.op == "placeholder"}
    readers: dict[str, fx.Node] = {}
    for name, sizes in crossing_sizes(plan).items():
        for call in [node for node in module.graph.nodes if node.op == "call_module" and node.target == name]:
            for index, result in _results_of(call):
                where = axes.get(str(sizes.get(index)))
                others = [user for user in result.users if not is_engine(user)]
                if where is None or not others or where[0] not in inputs:
                    continue
                reader = readers.get(str(sizes[index])) or _read(module.graph, inputs, *where)
                readers[str(sizes[index])] = reader
                for user in others:
                    user.replace_input_with(result, reader)
    module.graph.eliminate_dead_code()
    module.recompile()


def input_axes(plan: fx.GraphModule) -> dict[str, tuple[str, int]]:
    """Where each open size can be read: its symbol -> name of the input, and axis."""
    found: dict[str, tuple[str, int]] = {}
    for node in plan.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if isinstance(size, torch.SymInt):
                found.setdefault(str(size.node.expr), (node.name, axis))
    return found


def reads_sizes(module: fx.GraphModule) -> bool:
    """Whether a part that stays in PyTorch reads, or is given, the size of a tensor."""
    children = [child for name, child in module.named_children() if not name.startswith(ENGINE_PREFIX)]
    graphs = [module.graph, *(child.graph for child in children if isinstance(child, fx.GraphModule))]
    nodes = [node for graph in graphs for node in graph.nodes]
    return any(
        node.target in SIZES if node.op == "call_function" else node.op == "placeholder" and is_number(node)
        for node in nodes
    )


def is_engine(node: fx.Node) -> bool:
    return node.op == "call_module" and str(node.target).startswith(ENGINE_PREFIX)


def is_number(node: fx.Node) -> bool:
    """Whether a node gives a number when it runs, not a tensor; an engine gives tensors only."""
    if node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        call, index = node.args[0], node.args[1]
        if call.op == "call_module":
            return not is_engine(call) and _child_gives_number(call, index)
    if node.op == "call_module":
        return not is_engine(node) and _child_gives_number(node, 0)
    return node.target in SIZES or _is_size(node.meta.get("val"))


def child_results(child: fx.GraphModule) -> list[Any]:
    """The nodes that a part returns, one or several."""
    result = next(node for node in child.graph.nodes if node.op == "output").args[0]
    return list(result) if isinstance(result, tuple | list) else [result]


def _child_gives_number(call: fx.Node, index: Any) -> bool:
    child = call.graph.owning_module.get_submodule(str(call.target)) if call.graph.owning_module is not None else None
    if not isinstance(child, fx.GraphModule):
        return False
    result = child_results(child)[index]
    return not isinstance(result, fx.Node) or is_number(result)


def _results_of(call: fx.Node) -> list[tuple[int, fx.Node]]:
    """Each result that is used, by index; the call itself where it has only one."""
    picked = [user for user in call.users if user.target is operator.getitem]
    return [(int(str(user.args[1])), user) for user in picked] or [(0, call)]


def _read(graph: fx.Graph, inputs: Mapping[str, fx.Node], name: str, axis: int) -> fx.Node:
    with graph.inserting_after(list(inputs.values())[-1]):
        return graph.call_function(READ_SIZE, (inputs[name], axis))


def _sizes_given(node: fx.Node) -> list[Any]:
    if node.target not in (*VIEWS, EXPAND) or len(node.args) < 2 or not isinstance(node.args[1], list | tuple):
        return []
    return list(node.args[1])


def _is_same(size: int | torch.SymInt, given: Any) -> bool:
    value = given.meta.get("val") if isinstance(given, fx.Node) else given
    if isinstance(size, torch.SymInt) and isinstance(value, torch.SymInt):
        return bool(size.node.expr == value.node.expr)
    return False


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float | torch.SymInt | torch.SymFloat) and not isinstance(value, bool)
