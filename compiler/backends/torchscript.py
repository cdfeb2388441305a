"""TorchScript, frozen: without Python in the call, and on a CPU with fused and pre-packed operators.

Traced where tracing is exact, scripted from the exported graph where it would freeze a size or a decision.
`judge.py` has the last word: it compares the saved file with the reference at several sizes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.jit._trace import TracerWarning  # also torch.jit.TracerWarning, but not by its stubs

from compiler.datatypes import quiet_torchscript
from compiler.errors import BuildFailed, LowerFailed
from compiler.flat import Flat, pick_outputs
from compiler.golden import can_widen, random_inputs
from compiler.jobs import Built, Interface, Place
from compiler.load import Opened
from compiler.lower import example_inputs, lower, sizes_are_read
from compiler.quantize.engine import engine_of, note_engine, packed_as_noted
from compiler.spec import Rung

FILE_NAME = "model.ts"
CHECK_SEED = 1


def build(opened: Opened, interface: Interface, place: Place, out: Path, rung: Rung) -> Built:
    """Write model.ts into `out`. Raises BuildFailed with the reasons of both ways."""
    with quiet_torchscript(), torch.no_grad():
        if opened.kind == "torchscript":
            script, how = opened.module, ""
        else:
            script, how = _capture(opened, interface, place.device)
        try:
            frozen = torch.jit.freeze(script.eval())
        except RuntimeError as error:
            raise BuildFailed(f"torch.jit.freeze refuses the model: {_first_line(error)}") from error
        torch.jit.save(frozen, out / FILE_NAME)
    if rung.precision == "int8":
        note_engine(out, engine_of(rung.variant))
    return Built(how)


def load(folder: Path, interface: Interface, device: str) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Raises RuntimeError where torch cannot read the file, BuildFailed where it lacks the kernels."""
    names = tuple(spec.name for spec in interface.outputs)
    with quiet_torchscript(), packed_as_noted(folder):
        if device != "cpu":
            # Else the fuser compiles a kernel for each of the first shapes, under traffic.
            torch.jit.set_fusion_strategy([("DYNAMIC", 1)])
        script = torch.jit.load(folder / FILE_NAME, map_location=device)  # type: ignore[no-untyped-call]
        if device == "cpu":
            # Done here and not before saving: the packed weights are laid out for this processor.
            script = torch.jit.optimize_for_inference(script)
    return lambda inputs: pick_outputs(script(*inputs), names)


def _capture(opened: Opened, interface: Interface, device: str) -> tuple[Any, str]:
    why_not = "tracing would freeze a size that the graph reads"
    graph = opened.module.graph if isinstance(opened.module, fx.GraphModule) else None
    if graph is None or not sizes_are_read(graph):
        flat = Flat(opened, tuple(spec.name for spec in interface.outputs))
        traced, why_not = _trace(flat, interface, device)
        if traced is not None:
            return traced, ""
    try:
        return script_program(lower(opened, interface, device)), f"scripted, not traced: {why_not}"
    except (LowerFailed, RuntimeError) as error:
        raise BuildFailed(f"{why_not}; scripting failed too: {_first_line(error)}") from error


def _trace(flat: Flat, interface: Interface, device: str) -> tuple[Any, str]:
    """The trace, or None and why it cannot be trusted."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TracerWarning)
        try:
            traced = torch.jit.trace(flat, example_inputs(interface, device), check_trace=False)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            return None, f"torch.jit.trace failed: {_first_line(error)}"
    for warning in caught:
        if issubclass(warning.category, TracerWarning):
            return None, f"tracing would freeze a decision: {str(warning.message).splitlines()[0]}"
    for inputs in _other_sizes(flat, interface, device):
        try:
            same = [a.shape == b.shape for a, b in zip(traced(*inputs), flat(*inputs), strict=True)]
        except RuntimeError as error:
            return None, f"the trace holds for its example's sizes only: {_first_line(error)}"
        if not all(same):
            return None, "the trace froze the size of its example"
    return traced, ""


def _other_sizes(flat: Flat, interface: Interface, device: str) -> list[tuple[Tensor, ...]]:
    """Inputs of other sizes than the example's, which the model accepts."""
    most = interface.max_batch_size
    accepted = []
    if most > 1:
        accepted.append(random_inputs(interface.inputs, 3 if most > 2 else 1, CHECK_SEED))
    if can_widen(interface.inputs, most > 0):
        wider = random_inputs(interface.inputs, min(2, most), CHECK_SEED, wider=True)
        with contextlib.suppress(RuntimeError):  # the model need not take every size; then there is nothing to compare
            flat(*(tensor.to(device) for tensor in wider))
            accepted.append(wider)
    return [tuple(tensor.to(device) for tensor in inputs) for inputs in accepted]


def script_program(program: torch.export.ExportedProgram) -> Any:
    """A program as TorchScript in which sizes stay sizes. Raises RuntimeError where TorchScript cannot express it."""
    module = program.module(check_guards=False)
    # A plain graph: without the call conventions of torch.export and its rewritten forward.
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            node.target = node.target.overloadpacket  # TorchScript resolves overloads itself, and not by attribute
        if "device" in node.kwargs:
            # The printed code would name torch.device as a global; layout and pin_memory only repeat the default.
            kept = {name: value for name, value in node.kwargs.items() if name not in ("layout", "pin_memory")}
            node.kwargs = {**kept, "device": str(kept["device"])}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The TorchScript type system", category=UserWarning)
        return torch.jit.script(fx.GraphModule(module, graph, "Scripted"))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
