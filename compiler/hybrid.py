"""Describes how a hybrid module divides a model: TensorRT engines and PyTorch subgraphs, in the order of execution.

Reads a partitioned fx graph before its engines are built; knows nothing of TensorRT but the names it gives its parts
and a table of converters that can be asked. `backends/tensorrt.py` makes the graph, the manifest keeps the map.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx

from compiler.manifest import HybridMap, Remainder, Segment

ENGINE_PREFIX = "_run_on_acc"  # how Torch-TensorRT names the children that become engines
MOST_LAYERS = 12  # names that one segment may have; more of them are cut to fewer parts each

Why = Callable[[fx.Node], str]


def map_hybrid(module: fx.GraphModule, why: Why, engine_bytes: Mapping[str, int] | None = None) -> HybridMap:
    """The map of a partitioned module. `why(node)` says why a node stayed in PyTorch."""
    sizes = engine_bytes or {}
    segments, left_out = [], Counter[tuple[str, str]]()
    counts, parameters = Counter[str](), Counter[str]()
    for kind, name, nodes in _split(module):
        operators = Counter(operator_name(node) for node in nodes if is_operator(node))
        if kind == "torch":
            left_out.update((operator_name(node), why(node)) for node in nodes if is_operator(node))
        counts[kind] += operators.total()
        parameters[kind] += _parameters(nodes)
        segments.append(
            Segment(
                kind=kind,
                name=name,
                operators=dict(operators.most_common()),
                layers=_layers(nodes),
                bytes_in=sum(map(_bytes, _inputs(nodes))),
                bytes_out=sum(map(_bytes, _outputs(nodes))),
                engine_bytes=sizes.get(name, 0),
            )
        )
    remainders = (Remainder(name, count, reason) for (name, reason), count in left_out.most_common())
    return HybridMap(tuple(segments), tuple(remainders), _share(counts), _share(parameters))


def explain(node: fx.Node, converters: Container[Any], block_size: int) -> str:
    """Why Torch-TensorRT left `node` in PyTorch, asked of its table of converters."""
    if node in converters:
        return f"TensorRT has it, but a block of fewer than {block_size} operators is not worth an engine"
    if node.target in converters:
        return "TensorRT's converter does not take it with these sizes or arguments"
    return "TensorRT has no converter for it"


def is_operator(node: fx.Node) -> bool:
    """Whether a node computes something; taking one of several results does not."""
    return node.op in ("call_function", "call_method") and node.target is not operator.getitem


def operator_name(node: fx.Node) -> str:
    """ "aten.relu" for torch.ops.aten.relu.default: without the overload, which says nothing to a reader."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target.overloadpacket)
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _split(module: fx.GraphModule) -> Iterator[tuple[Literal["tensorrt", "torch"], str, list[fx.Node]]]:
    """The parts in order: children, and runs of operators that were left between them."""
    loose: list[fx.Node] = []
    for node in module.graph.nodes:
        child = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(child, fx.GraphModule):
            if any(map(is_operator, loose)):
                yield "torch", f"between_{loose[0].name}", loose
            loose = []
            name = str(node.target)
            yield "tensorrt" if name.startswith(ENGINE_PREFIX) else "torch", name, list(child.graph.nodes)
        elif node.op in ("call_function", "call_method", "call_module"):
            loose.append(node)
    if any(map(is_operator, loose)):
        yield "torch", f"between_{loose[0].name}", loose


def _inputs(nodes: list[fx.Node]) -> Iterable[fx.Node]:
    """What comes in over the border: a child's placeholders, or what loose operators take from elsewhere."""
    placeholders = [node for node in nodes if node.op == "placeholder"]
    if placeholders:
        return placeholders
    own = set(nodes)
    return {source: None for node in nodes for source in node.all_input_nodes if source not in own}


def _outputs(nodes: list[fx.Node]) -> Iterable[fx.Node]:
    """What goes out: a child's results, or what of loose operators is used elsewhere."""
    results = [node for node in nodes if node.op == "output"]
    if results:
        return results[0].all_input_nodes
    own = set(nodes)
    return [node for node in nodes if any(user not in own for user in node.users)]


def _bytes(node: fx.Node) -> int:
    """Of one tensor at the smallest batch; what is no tensor has none."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return 0
    count = 1
    for size in value.shape:
        count *= _least(size)
    return count * value.element_size()


def _least(size: int | torch.SymInt) -> int:
    """The smallest value of a size; an open range that begins at 2 begins at 1: torch.export takes 1 for a constant."""
    if isinstance(size, int):
        return size
    lower = int(size.node.shape_env.bound_sympy(size.node.expr).lower)
    return 1 if lower == 2 else max(lower, 1)


def _parameters(nodes: list[fx.Node]) -> int:
    """Elements of the constants that these nodes read, each counted once."""
    held: dict[str, int] = {}
    for node in nodes:
        if node.op == "get_attr":
            value: Any = node.graph.owning_module
            for part in str(node.target).split("."):
                value = getattr(value, part, None)
            if isinstance(value, Tensor):
                held[str(node.target)] = value.numel()
    return sum(held.values())


def _share(counts: Counter[str]) -> float:
    return round(counts["tensorrt"] / counts.total(), 4) if counts.total() else 0.0


def _layers(nodes: list[fx.Node]) -> tuple[str, ...]:
    """The modules of the model that these nodes came from, in order."""
    paths = []
    for node in nodes:
        stack = node.meta.get("nn_module_stack") if is_operator(node) else None
        if stack:
            path = str(list(stack.values())[-1][0])
            paths.append(path.removeprefix("L['self']").removeprefix(".").removeprefix("model").removeprefix("."))
    return shorten(path for path in paths if path and not path.startswith("_empty_nn_module_stack"))


def shorten(paths: Iterable[str], most: int = MOST_LAYERS) -> tuple[str, ...]:
    """`paths` without repetition, cut to as few of their leading parts as it takes to have at most `most`.

    >>> shorten(["blocks.0.conv", "blocks.0.norm", "head"], most=2)
    ('blocks', 'head')
    """
    names = tuple(dict.fromkeys(paths))
    depth = max((name.count(".") + 1 for name in names), default=1)
    while len(names) > most and depth > 1:
        depth -= 1
        names = tuple(dict.fromkeys(".".join(name.split(".")[:depth]) for name in names))
    return names
