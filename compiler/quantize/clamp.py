"""ReLU6 in INT8 for nothing: a ReLU whose output is quantised from 0 to 6 stops at 6 by itself.

torch.ao fuses a convolution with ReLU, but not with ReLU6: it would quantise what comes between the two, over the wide
range of values that ReLU6 cuts off. On EfficientNet-Lite0 that costs more than all other rounding together.

    relaxed, prepared = relax(module), prepare_fx(relaxed, ...)
    clamps = insert_clamps(prepared)      calibrate here: values stop at 6
    remove_clamps(prepared, clamps)       then convert

Knows nothing of engines or recipes; `fx.py` asks.
"""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.ao.quantization import ObserverBase

LIMIT = 6.0
MARK = "torchere_limit"  # of a ReLU that was a ReLU6; a class of its own would not be fused


def has_clamps(module: nn.Module) -> bool:
    return any(type(child) is nn.ReLU6 for child in module.modules())


def relax(module: nn.Module) -> nn.Module:
    """A copy with a marked ReLU for every ReLU6."""
    relaxed = copy.deepcopy(module)
    for parent in list(relaxed.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.ReLU6:
                relu = nn.ReLU(child.inplace).train(child.training)
                vars(relu)[MARK] = LIMIT
                setattr(parent, name, relu)
    return relaxed


def insert_clamps(prepared: fx.GraphModule) -> list[fx.Node] | None:
    """Clamps between every marked ReLU and its observer; None, and nothing changed, where one has none."""
    places = [(node, user) for node in prepared.graph.nodes if _is_marked(prepared, node) for user in node.users]
    if not all(_is_observer(prepared, user) for _, user in places):
        return None
    clamps = []
    for node, user in places:
        with prepared.graph.inserting_after(node):
            clamp = prepared.graph.call_function(torch.clamp, (node, 0.0, LIMIT))
        user.replace_input_with(node, clamp)
        clamps.append(clamp)
    prepared.recompile()
    return clamps


def remove_clamps(prepared: fx.GraphModule, clamps: list[fx.Node]) -> None:
    """The graph as it was: the ranges that were observed now do the work."""
    for clamp in clamps:
        clamp.replace_all_uses_with(clamp.all_input_nodes[0])
        prepared.graph.erase_node(clamp)
    prepared.recompile()


def _is_marked(prepared: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    module = prepared.get_submodule(str(node.target))
    last = module[-1] if isinstance(module, nn.Sequential) else module  # fused: convolution, then ReLU
    return MARK in vars(last)


def _is_observer(prepared: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(prepared.get_submodule(str(node.target)), ObserverBase)
