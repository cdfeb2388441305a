"""The map of a hybrid: which parts become engines, what stays in PyTorch and why, and what crosses between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.operator_support import OperatorSupportBase
from torch.fx.passes.splitter_base import _SplitterBase, _SplitterSettingBase

from compiler.hybrid import explain, map_hybrid, shorten


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.head(torch.special.i0(torch.relu(self.first(x)))),)


def partition(module: nn.Module, stays: Callable[[fx.Node], bool]) -> fx.GraphModule:
    """A graph divided by torch's splitter, which Torch-TensorRT uses, with metadata at its nodes."""
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(module, (torch.randn(4, 4),), dynamic_shapes=({0: batch},), strict=False)
    whole = program.module(check_guards=False)
    graph = fx.Graph()
    graph.output(graph.graph_copy(whole.graph, {}))

    class Support(OperatorSupportBase):
        def is_node_supported(self, submodules: Mapping[str, nn.Module], node: fx.Node) -> bool:
            return not stays(node)

    settings = _SplitterSettingBase(min_acc_module_size=1, allow_non_tensor=True)
    splitter = _SplitterBase(fx.GraphModule(whole, graph), (torch.randn(4, 4),), Support(), settings)
    return splitter()


def is_bessel(node: fx.Node) -> bool:
    return "i0" in str(node.target)


def test_parts_stand_in_order_with_operators_layers_and_bytes() -> None:
    divided = map_hybrid(partition(Model(), is_bessel), lambda node: "no converter", {"_run_on_acc_0": 100})
    first, middle, last = divided.segments
    assert [part.kind for part in divided.segments] == ["tensorrt", "torch", "tensorrt"]
    assert (first.operators, first.layers, first.engine_bytes) == ({"aten.linear": 1, "aten.relu": 1}, ("first",), 100)
    assert (first.bytes_in, first.bytes_out) == (4 * 4, 8 * 4), "one row of float32: the smallest batch"
    assert (middle.bytes_in, middle.bytes_out) == (8 * 4, 8 * 4)
    assert last.bytes_out == 2 * 4
    assert divided.engines == 2


def test_what_stays_is_counted_with_its_reason_and_lowers_the_coverage() -> None:
    divided = map_hybrid(partition(Model(), is_bessel), lambda node: f"because of {node.op}")
    (left,) = divided.remainders
    assert (left.operator.rpartition(".")[2], left.count, left.reason) == ("special_i0", 1, "because of call_function")
    assert divided.operator_coverage == 0.75
    assert divided.parameter_coverage == 1.0


def test_parameters_of_a_part_in_pytorch_lower_the_coverage() -> None:
    divided = map_hybrid(partition(Model(), lambda node: "linear" in str(node.target)), lambda node: "")
    assert divided.parameter_coverage == 0.0
    assert divided.engines == 1


def test_operators_that_were_left_between_children_are_a_part_of_their_own() -> None:
    plain = fx.symbolic_trace(lambda x: torch.relu(x) + 1)  # type: ignore[arg-type]
    divided = map_hybrid(plain, lambda node: "no converter")
    (part,) = divided.segments
    assert (part.kind, part.operators) == ("torch", {"relu": 1, "add": 1})
    assert divided.operator_coverage == 0.0


class Table:
    """A table of converters: operators it knows, and uses of them that it takes."""

    def __init__(self, known: set[Any], taken: set[Any]) -> None:
        self.known, self.taken = known, taken

    def __contains__(self, key: object) -> bool:
        return key in (self.taken if isinstance(key, fx.Node) else self.known)


def test_why_an_operator_stayed() -> None:
    graph = fx.Graph()
    node = graph.call_function(torch.relu, (graph.placeholder("x"),))
    assert "no converter" in explain(node, Table(set(), set()), 5)
    assert "sizes or arguments" in explain(node, Table({torch.relu}, set()), 5)
    assert "fewer than 5 operators" in explain(node, Table({torch.relu}, {node}), 5)


def test_names_of_layers_are_cut_as_little_as_it_takes() -> None:
    paths = [f"blocks.{block}.{layer}" for block in range(4) for layer in ("conv", "norm")] + ["head"]
    assert len(shorten(paths, most=9)) == 9
    assert shorten(paths, most=5) == ("blocks.0", "blocks.1", "blocks.2", "blocks.3", "head")
    assert shorten(paths, most=2) == ("blocks", "head")
