"""fp16 and bf16: the exported graph with every float32 inside in half precision, and float32 at its border as before.

Weights, constants, the dtypes that operators name and what becomes a float inside (`image.float() / 255`) are all
rewritten, so that no operator meets two precisions. A model that cannot be exported is cast as a module.

Knows nothing of backends. Its answers are judged as any other candidate's: a sum that overflows fp16 shows there.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from compiler.datatypes import TORCH_TYPES
from compiler.errors import LowerFailed
from compiler.flat import Flat
from compiler.jobs import Interface
from compiler.load import Opened
from compiler.lower import lower

WIDE = torch.float32
# An exported graph repeats what dtype each cast had, and would stop at another.
CHECKS = (torch.ops.aten._assert_tensor_metadata.default,)


def cast(opened: Opened, interface: Interface, device: str, dtype: torch.dtype) -> Opened:
    """The model computing in `dtype`, torch.float16 or torch.bfloat16, with the interface it had."""
    try:
        module = lower(opened, interface, device).module(check_guards=False)
    except LowerFailed:
        names = tuple(spec.name for spec in interface.outputs)
        outputs = tuple(TORCH_TYPES[spec.datatype] for spec in interface.outputs)
        return Opened("python", CastModule(Flat(opened, names), dtype, outputs))
    assert isinstance(module, fx.GraphModule), "an exported program gives a graph"
    _cast_graph(module, dtype)
    return Opened("python", module)


class CastModule(nn.Module):
    """A module in half precision that takes float32 and gives the dtypes that it gave before."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, outputs: tuple[torch.dtype, ...]) -> None:
        super().__init__()
        self.model = model.to(dtype)
        self._dtype = dtype
        self._outputs = outputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        narrow = (tensor.to(self._dtype) if tensor.dtype is WIDE else tensor for tensor in inputs)
        return tuple(tensor.to(dtype) for tensor, dtype in zip(self.model(*narrow), self._outputs, strict=True))


def _cast_graph(module: fx.GraphModule, dtype: torch.dtype) -> None:
    """Rewrite `module` and the graphs of its branches and loops in place."""
    known: dict[int, tuple[Tensor, Tensor]] = {}  # a weight that is used twice stays one
    for name, part in list(module.named_modules()):
        if isinstance(part, fx.GraphModule):
            _cast_values(part, dtype, known)
            _cast_operators(part, dtype)
            if name == "":
                _cast_border(part, dtype)
            part.graph.lint()
            part.recompile()


def _cast_values(module: fx.GraphModule, dtype: torch.dtype, known: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Weights and constants, wherever the graph reads them."""
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        owner, name = _find_owner(module, str(node.target))
        value = getattr(owner, name)
        if not isinstance(value, Tensor) or value.dtype is not WIDE:
            continue
        if id(value) not in known:
            known[id(value)] = value, _narrow(value, dtype)  # with the old one, whose id must not be given again
        narrow = known[id(value)][1]
        if isinstance(value, nn.Parameter):
            narrow = nn.Parameter(narrow, requires_grad=False)
        setattr(owner, name, narrow)


def _find_owner(module: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, name = path.rpartition(".")
    return module.get_submodule(parent), name


def _narrow(value: Tensor, dtype: torch.dtype) -> Tensor:
    """In `dtype`, what lies outside at its ends: a mask of -1e9 must not become -infinity, whose softmax is NaN."""
    limits = torch.finfo(dtype)
    narrow = value.detach().clamp(limits.min, limits.max).to(dtype)
    return torch.where(torch.isinf(value), value.to(dtype), narrow) if bool(torch.isinf(value).any()) else narrow


def _cast_operators(module: fx.GraphModule, dtype: torch.dtype) -> None:
    """The dtypes that operators name, and the floats that they make of integers without naming one."""
    limits = torch.finfo(dtype)

    def rewrite(argument: Any) -> Any:
        if argument is WIDE:
            return dtype
        if isinstance(argument, float) and abs(argument) != float("inf"):
            return min(max(argument, limits.min), limits.max)
        return argument

    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target is operator.getitem:
            continue
        if node.target in CHECKS:
            module.graph.erase_node(node)
            continue
        node.args, node.kwargs = map_aggregate(node.args, rewrite), map_aggregate(node.kwargs, rewrite)
        # Where the operator named the dtype this is a cast to what it is already, which compilers drop.
        if _is_wide(node) and not any(_is_wide(inner) for inner in node.all_input_nodes):
            _cast_after(module.graph, node, dtype)


def _cast_border(module: fx.GraphModule, dtype: torch.dtype) -> None:
    """Inputs to half precision as they come in, outputs to float32 as they leave."""
    for node in list(module.graph.nodes):
        if node.op == "placeholder" and _is_wide(node):
            _cast_after(module.graph, node, dtype)
    result = module.graph.output_node()

    def widen(node: fx.Node) -> fx.Node:
        if not _is_wide(node):
            return node
        with module.graph.inserting_before(result):
            return module.graph.call_function(torch.ops.aten.to.dtype, (node, WIDE))

    result.args = fx.map_arg(result.args, widen)


def _cast_after(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> None:
    with graph.inserting_after(node):
        narrow = graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
    narrow.meta["val"] = node.meta.get("val")  # of the original: whether it was wide is asked of its users' inputs
    node.replace_all_uses_with(narrow, delete_user_cb=lambda user: user is not narrow)


def _is_wide(node: fx.Node) -> bool:
    """Whether it was float32 in the model as it was exported."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype is WIDE
