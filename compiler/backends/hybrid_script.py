"""Turns a compiled hybrid, engines and PyTorch subgraphs, into a file: traced, scripted, or as an exported program.

Tracing is exact where no PyTorch part reads a size, which it would freeze to the example's. Where one does, the graph
is scripted, with the call of each engine written out. `tensorrt.py` compiles and loads; nothing here compiles.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from compiler.backends.hybrid_sizes import is_engine, is_number, reads_sizes
from compiler.datatypes import quiet_torchscript
from compiler.errors import BuildFailed

SCRIPT_NAME, PROGRAM_NAME = "model.ts", "model.pt2"


def make_contiguous(module: fx.GraphModule) -> fx.GraphModule:
    """Give engines only contiguous inputs.

    The C++ runtime of Torch-TensorRT 2.11 frees its contiguous copy of any other before the engine has read it; newer
    ones do not, and for a tensor that is contiguous already this is free.
    """
    for node in engine_calls(module):
        with module.graph.inserting_before(node):
            node.args = tuple(
                argument
                if not isinstance(argument, fx.Node) or is_number(argument)
                else module.graph.call_method("contiguous", (argument,))
                for argument in node.args
            )
    module.recompile()
    return module


def engine_calls(module: fx.GraphModule) -> list[fx.Node]:
    """The nodes that run an engine, in order."""
    return [node for node in module.graph.nodes if is_engine(node)]


def save_hybrid(
    module: fx.GraphModule, example: tuple[Tensor, ...], folder: Path, to_program: Callable[[Path], None]
) -> str:
    """Write `module` into `folder` in the first format that holds it; how, where that is worth saying.

    `to_program` writes an exported program: it needs the compiler's own code. Raises BuildFailed with every reason.
    """
    reasons = []
    with quiet_torchscript(), torch.no_grad():
        must_script = reads_sizes(module)
        try:
            script = script_hybrid(module) if must_script else torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(script, str(folder / SCRIPT_NAME))
        except Exception as error:  # noqa: BLE001 - whatever TorchScript does not take, the next format may
            reasons.append(f"{'scripting' if must_script else 'tracing'} failed: {_first_line(error)}")
        else:
            return "scripted, not traced: tracing would freeze a size that PyTorch reads" if must_script else ""
        try:
            to_program(folder / PROGRAM_NAME)
        except Exception as error:
            reasons.append(f"torch.export failed: {_first_line(error)}")
            raise BuildFailed(f"the hybrid cannot be saved: {'; '.join(reasons)}") from error
    return f"saved as an exported program: {reasons[0]}"


def script_hybrid(
    module: fx.GraphModule, run: Any = None, find_engine: Callable[[nn.Module], Any] | None = None
) -> Any:
    """The hybrid as TorchScript in which sizes stay sizes.

    `run(tensors, engine)` is the operator that runs an engine, `find_engine` takes the engine out of a child; without
    them Torch-TensorRT's own. Raises RuntimeError where TorchScript cannot express the graph.
    """
    run = torch.ops.tensorrt.execute_engine if run is None else run
    find_engine = find_engine or (lambda child: child.engine)
    root, graph = nn.Module(), fx.Graph()
    taken = dict[fx.Node, Any]()
    for node in module.graph.nodes:
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], lambda source: taken[source]))
        elif node.op == "call_module":
            child = module.get_submodule(str(node.target))
            arguments = fx.map_arg(node.args, lambda source: taken[source])
            if isinstance(child, fx.GraphModule):
                setattr(root, str(node.target), fx.GraphModule(child, _plain(child), "Part"))
                taken[node] = graph.call_module(str(node.target), arguments)
            else:
                setattr(root, f"engine_{node.target}", find_engine(child))
                taken[node] = _call_engine(graph, node, arguments, run)
        else:
            if node.op == "get_attr":
                _copy_attribute(module, root, str(node.target))
            taken[node] = graph.node_copy(node, lambda source: taken[source])
            _resolve(taken[node])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The TorchScript type system", category=UserWarning)
        warnings.filterwarnings("ignore", message="Attempted to insert a get_attr Node", category=UserWarning)
        return torch.jit.script(fx.GraphModule(root, graph, "Hybrid"))


def _call_engine(graph: fx.Graph, node: fx.Node, arguments: tuple[Any, ...], run: Any) -> fx.Node:
    """The engine's list of results, or its only one, as its users expect them. A size goes in as a tensor."""
    tensors = [_as_tensor(graph, source, given) for source, given in zip(node.args, arguments, strict=True)]
    engine = graph.create_node("get_attr", f"engine_{node.target}")
    results = graph.call_function(run, (tensors, engine))
    takes_several = any(user.target is operator.getitem for user in node.users)
    return results if takes_several else graph.call_function(operator.getitem, (results, 0))


def _as_tensor(graph: fx.Graph, source: Any, given: Any) -> Any:
    if isinstance(source, fx.Node) and not is_number(source):
        return given
    return graph.call_function(torch.tensor, (given,), {"device": "cuda"})


def _plain(module: fx.GraphModule) -> fx.Graph:
    """The graph without the call conventions of torch.export, in the words that TorchScript knows."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        if node.op == "placeholder" and is_number(node):
            node.type = int  # TorchScript takes anything else for a tensor
        _resolve(node)
    return graph


def _resolve(node: fx.Node) -> None:
    if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
        node.target = node.target.overloadpacket  # TorchScript resolves overloads itself, and not by attribute
    if "device" in node.kwargs:
        # The printed code would name torch.device as a global; layout and pin_memory only repeat the default.
        kept = {name: value for name, value in node.kwargs.items() if name not in ("layout", "pin_memory")}
        node.kwargs = {**kept, "device": str(kept["device"])}


def _copy_attribute(source: nn.Module, target: nn.Module, path: str) -> None:
    value: Any = source
    for part in path.split("."):
        value = getattr(value, part)
    *parents, name = path.split(".")
    for part in parents:
        if not hasattr(target, part):
            setattr(target, part, nn.Module())
        target = getattr(target, part)
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        target.register_buffer(name, value)
    else:
        setattr(target, name, value)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
