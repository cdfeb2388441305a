"""Files of hybrids: scripted where tracing would freeze a size, engines called with contiguous tensors only.

An operator of our own stands for TensorRT's: it takes a list of tensors and an "engine", which is a number here.
"""

from __future__ import annotations

import io
import operator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from compiler.backends.hybrid_script import make_contiguous, script_hybrid
from compiler.backends.hybrid_sizes import reads_sizes
from compiler.backends.tensorrt import pad, plan_parts, widest
from compiler.backends.tensorrt_compile import choose_block_size
from compiler.datatypes import quiet_torchscript
from compiler.jobs import Interface

LIBRARY = torch.library.Library("torchere_test", "DEF")
LIBRARY.define("run(Tensor[] inputs, Tensor engine) -> Tensor[]")


def run_engine(inputs: list[Tensor], engine: Tensor) -> list[Tensor]:
    """Refuses what the real one may overwrite; gives two results where the engine's number is negative."""
    if not all(tensor.is_contiguous() for tensor in inputs):
        raise RuntimeError("an engine was given a tensor that is not contiguous")
    total = inputs[0] * engine.abs()
    for tensor in inputs[1:]:
        total = total + tensor
    return [total, total + 1] if engine < 0 else [total]


LIBRARY.impl("run", run_engine, "CompositeExplicitAutograd")


class Engine(nn.Module):
    def __init__(self, number: float) -> None:
        super().__init__()
        self.engine = torch.tensor(number)

    def forward(self, *inputs: Any) -> Any:
        results = run_engine([item if isinstance(item, Tensor) else torch.tensor(item) for item in inputs], self.engine)
        return results[0] if len(results) == 1 else tuple(results)


def torch_part(reads: bool) -> fx.GraphModule:
    class Part(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            turned = x.transpose(1, 2)
            if not reads:
                return turned
            rows = torch.arange(x.shape[0], device=x.device, dtype=torch.float32)
            return turned + rows.reshape(-1, 1, 1).expand(x.shape[0], 4, 3)

    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(Part(), (torch.randn(4, 3, 4),), dynamic_shapes=({0: batch},), strict=False)
    whole = program.module(check_guards=False)
    graph = fx.Graph()
    (result,) = graph.graph_copy(whole.graph, {})  # type: ignore[misc]  # a part's only result is no tuple
    graph.output(result)
    return fx.GraphModule(whole, graph)


def hybrid(reads: bool) -> fx.GraphModule:
    """x -> engine with two results -> a part in PyTorch that transposes -> engine with one."""
    root, graph = nn.Module(), fx.Graph()
    root._run_on_acc_0, root._run_on_gpu_1, root._run_on_acc_2 = Engine(-2.0), torch_part(reads), Engine(3.0)
    x = graph.placeholder("x")
    both = graph.call_module("_run_on_acc_0", (x,))
    first = graph.call_function(operator.getitem, (both, 0))
    second = graph.call_function(operator.getitem, (both, 1))
    turned = graph.call_module("_run_on_gpu_1", (first,))
    graph.output((graph.call_module("_run_on_acc_2", (turned,)), second))
    return fx.GraphModule(root, graph)


def saved_and_loaded(script: Any) -> Any:
    file = io.BytesIO()
    with quiet_torchscript():
        torch.jit.save(script, file)
        file.seek(0)
        return torch.jit.load(file)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("reads", [True, False])
def test_a_scripted_hybrid_computes_the_same_at_every_size(reads: bool) -> None:
    module = make_contiguous(hybrid(reads))
    assert reads_sizes(module) is reads
    with quiet_torchscript():
        script = script_hybrid(module, torch.ops.torchere_test.run, lambda child: child.engine)
    loaded = saved_and_loaded(script)
    for rows in (1, 2, 3, 7):
        x = torch.randn(rows, 3, 4)
        for got, want in zip(loaded(x), module(x), strict=True):
            torch.testing.assert_close(got, want)


def test_an_engine_is_never_given_a_tensor_that_is_not_contiguous() -> None:
    with pytest.raises(RuntimeError, match="not contiguous"):
        hybrid(reads=False)(torch.randn(2, 3, 4))
    make_contiguous(hybrid(reads=False))(torch.randn(2, 4, 3).transpose(1, 2))


def test_a_size_goes_into_an_engine_as_a_tensor() -> None:
    class Sized(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x * 2

    module = hybrid(reads=False)
    node = next(node for node in module.graph.nodes if node.target == "_run_on_acc_2")
    with module.graph.inserting_before(node):
        size = module.graph.call_function(torch.ops.aten.sym_size.int, (node.args[0], 0))
        size.meta["val"] = 3
    node.args = (*node.args, size)
    module.recompile()
    assert reads_sizes(module)
    x = torch.randn(3, 3, 4)
    assert torch.equal(make_contiguous(module)(x)[0], make_contiguous(hybrid(False))(x)[0] + 3)


def test_one_module_for_all_batches_or_one_for_each_the_largest_first() -> None:
    interface = Interface((), (), 8, (1, 2, 8))
    assert [(part.rows, part.is_fixed) for part in plan_parts(interface, False)] == [(8, False)]
    assert [(part.rows, part.is_fixed) for part in plan_parts(interface, True)] == [(8, True), (2, True), (1, True)]
    assert widest(Interface((), (), 0, ())).is_fixed, "a model without a batch dimension has one size"
    assert [part.folder for part in plan_parts(Interface((), (), 0, ()), True)] == ["batch_0"]


def test_padding_repeats_the_last_row() -> None:
    padded = pad(torch.tensor([[1.0], [2.0]]), 4)
    assert padded.flatten().tolist() == [1.0, 2.0, 2.0, 2.0]


def test_a_small_model_gets_an_engine_too() -> None:
    assert [choose_block_size(count) for count in (1, 2, 5, 9, 100)] == [1, 1, 2, 4, 5]
