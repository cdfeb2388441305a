"""Sizes stay where they are read: views say -1, parts in PyTorch read the model's own inputs, engines hand none out."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

from compiler.backends.hybrid_sizes import drop_needless_sizes, infer_one, read_sizes_again, reads_sizes
from compiler.jobs import Interface
from compiler.load import Opened
from compiler.lower import find_limits, lower
from compiler.spec import TensorSpec

BATCH, LENGTH = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=2, max=64)


def export(module: nn.Module, example: Tensor, dims: dict[int, object]) -> torch.export.ExportedProgram:
    return torch.export.export(module, (example,), dynamic_shapes=(dims,), strict=False)


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(x.shape[0], 1, 4)
        wide = x.reshape(x.shape[0], -1).view(x.shape[0], 3, 4)
        return torch.cat((token, wide), dim=1)


def test_views_infer_the_batch_and_only_a_size_that_is_nowhere_else_is_read() -> None:
    program = export(Views().eval(), torch.randn(2, 12), {0: BATCH})
    module = program.module(check_guards=False)
    drop_needless_sizes(program)
    read = [node for node in program.graph.nodes if node.target is torch.ops.aten.sym_size.int]
    assert [user.target for node in read for user in node.users] == [torch.ops.aten.expand.default]
    for rows in (1, 2, 5):
        x = torch.randn(rows, 12)
        torch.testing.assert_close(program.module(check_guards=False)(x), module(x))


def test_two_open_sizes_are_left_alone() -> None:
    class TwoOpen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], x.shape[1], 2, 2)

    program = export(TwoOpen(), torch.randn(2, 6, 4), {0: BATCH, 1: LENGTH})
    drop_needless_sizes(program)
    assert sum(node.target is torch.ops.aten.sym_size.int for node in program.graph.nodes) == 2
    assert infer_one((2, 3)) is None, "nothing is open"


class Engine(nn.Module):
    """What runs in place of a part that became an engine: it hands sizes out as tensors."""

    def __init__(self, part: fx.GraphModule) -> None:
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(out if isinstance(out, Tensor) else torch.tensor(out) for out in self.part(*inputs))


def test_a_part_in_pytorch_reads_the_size_from_the_models_input() -> None:
    class Head(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return torch.relu(x), x.shape[0]

    class Tail(nn.Module):
        def forward(self, y: Tensor, rows: int) -> Tensor:
            return y + torch.arange(rows, dtype=torch.float32).reshape(-1, 1)

    whole = export(Head(), torch.randn(2, 4), {0: BATCH}).module(check_guards=False)
    inner = fx.Graph()
    inner.output(inner.graph_copy(whole.graph, {}))
    part = fx.GraphModule(whole, inner)
    root, graph = nn.Module(), fx.Graph()
    root._run_on_acc_0, root._run_on_gpu_1 = part, fx.symbolic_trace(Tail())
    x = graph.placeholder("x")
    x.meta["val"] = next(node.meta["val"] for node in whole.graph.nodes if node.op == "placeholder")
    head = graph.call_module("_run_on_acc_0", (x,))
    first, size = (graph.call_function(operator.getitem, (head, index)) for index in (0, 1))
    graph.output((graph.call_module("_run_on_gpu_1", (first, size)),))
    plan = fx.GraphModule(root, graph)
    compiled = fx.GraphModule(root, graph)
    compiled._run_on_acc_0 = Engine(part)
    read_sizes_again(compiled, plan)
    assert reads_sizes(compiled), "the number is read outside the engine: the hybrid must be scripted"
    tail = next(node for node in compiled.graph.nodes if node.target == "_run_on_gpu_1")
    assert tail.args[1].target is torch.ops.aten.sym_size.int
    for rows in (1, 3):
        given = torch.randn(rows, 4)
        torch.testing.assert_close(compiled(given)[0], torch.relu(given) + torch.arange(rows).float().reshape(-1, 1))


def test_limits_of_a_program_survive_being_exported_again() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    program = export(Plain(), torch.randn(2, 6, 4), {0: BATCH, 1: LENGTH})
    opened = Opened("pt2", program.module(check_guards=False), program)
    assert find_limits(opened)[0, 1] == (2, 64)
    spec = TensorSpec("x", "FP32", (-1, -1, 4))
    again = lower(opened, Interface((spec,), (TensorSpec("y", "FP32", (-1, -1, 4)),), 8, (1, 8)), "cpu")
    assert sorted(int(bounds.upper) for bounds in again.range_constraints.values()) == [8, 64]
