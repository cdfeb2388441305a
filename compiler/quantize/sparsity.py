"""2:4 sparsity: of every four weights along the input channels two are zero, which some kernels skip.

`find_sparsity` reports it layer by layer, `prune` makes it by setting the two smallest of each four to zero. That costs
accuracy, which the labelled samples decide on; training with the zeros in place wins most of it back.

Knows nothing of which kernels use it: whether it is faster shows in the race.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from compiler.errors import BuildFailed
from compiler.load import Opened
from compiler.manifest import LayerSparsity

GROUP, KEPT = 4, 2
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NAMES = tuple(layer.__name__ for layer in LAYERS)
aten = torch.ops.aten
OPERATORS = (aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)


def find_sparsity(module: nn.Module) -> tuple[LayerSparsity, ...]:
    """One entry for each Linear and convolution: of a module, of TorchScript, or of an exported graph."""
    return tuple(
        LayerSparsity(
            layer=name,
            shape=tuple(weight.shape),
            is_two_of_four=is_two_of_four(weight),
            zeros=round((weight == 0).float().mean().item(), 4),
        )
        for name, weight in _weights(module)
    )


def prune(module: nn.Module) -> nn.Module:
    """A copy in which every weight that can be is 2:4 sparse, by magnitude."""
    with warnings.catch_warnings():
        # Copying an exported graph copies a class that torch deprecates itself.
        warnings.filterwarnings("ignore", message=r".*LeafSpec", category=FutureWarning)
        pruned = copy.deepcopy(module)
    with torch.no_grad():
        for _, weight in _weights(pruned):
            if can_be_sparse(weight):
                weight.copy_(prune_weight(weight))
    return pruned


def prune_opened(opened: Opened) -> Opened:
    """As `prune`, of a model as it was opened. Raises BuildFailed where no weight can be pruned."""
    if not any(can_be_sparse(weight) for _, weight in _weights(opened.module)):
        raise BuildFailed("no Linear or convolution has input channels in fours, as 2:4 sparsity needs")
    # The graph keeps what the program knew; Flat finds the call's form there.
    return Opened(opened.kind, prune(opened.module), opened.program)


def can_be_sparse(weight: Tensor) -> bool:
    """Whether the input channels come in fours."""
    return weight.dim() >= 2 and weight.shape[1] % GROUP == 0 and weight.is_floating_point()


def is_two_of_four(weight: Tensor) -> bool:
    """Whether at least two of every four weights along the input channels are zero."""
    return can_be_sparse(weight) and bool(((_groups(weight) != 0).sum(-1) <= KEPT).all())


def prune_weight(weight: Tensor) -> Tensor:
    """`weight` with the two smallest of every four along the input channels set to zero."""
    groups = _groups(weight)
    largest = groups.abs().topk(KEPT, dim=-1).indices
    kept = groups * torch.zeros_like(groups).scatter_(-1, largest, 1)
    last = kept.reshape(*_channels_last(weight).shape)
    return last.movedim(-1, 1).contiguous()


def _channels_last(weight: Tensor) -> Tensor:
    return weight.movedim(1, -1)


def _groups(weight: Tensor) -> Tensor:
    """[..., groups, 4]: the input channels last, in fours."""
    last = _channels_last(weight)
    return last.reshape(*last.shape[:-1], last.shape[-1] // GROUP, GROUP)


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(layer, weight) of every Linear and convolution; a weight that two layers share comes once."""
    seen: set[int] = set()
    for name, weight in _graph_weights(module) if _is_program(module) else _layer_weights(module):
        if weight.data_ptr() not in seen:
            seen.add(weight.data_ptr())
            yield name, weight


def _is_program(module: nn.Module) -> bool:
    return isinstance(module, fx.GraphModule) and any(node.target in OPERATORS for node in module.graph.nodes)


def _layer_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, layer in module.named_modules():
        # TorchScript keeps the name of the class, not the class.
        is_layer = isinstance(layer, LAYERS) or getattr(layer, "original_name", "") in NAMES
        weight = getattr(layer, "weight", None) if is_layer else None
        if isinstance(weight, Tensor):
            yield name or "model", weight


def _graph_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    assert isinstance(module, fx.GraphModule), "asked of a graph"
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target not in OPERATORS:
            continue
        source = node.args[1]
        if isinstance(source, fx.Node) and source.op == "get_attr":
            owner, _, name = str(source.target).rpartition(".")
            weight = getattr(module.get_submodule(owner), name)
            if isinstance(weight, Tensor):
                yield str(source.target).removesuffix(".weight"), weight
