"""Calls Torch-TensorRT: divides a program between TensorRT and PyTorch, and converts it, whatever the version.

Knows nothing of files, batches or precisions: the program has them. `tensorrt.py` asks for each part of a candidate.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo

from compiler.backends.hybrid_sizes import is_engine
from compiler.errors import BuildFailed
from compiler.hybrid import explain, is_operator, map_hybrid
from compiler.manifest import HybridMap
from compiler.spec import Rung

SPARSE = "2:4"
SMALLEST_BLOCK = 5  # operators; Torch-TensorRT's own default: a smaller engine costs more at its borders than it saves


@dataclass(frozen=True)
class Order:
    """A program to be converted for one rung on one GPU, by `compiler`, the module torch_tensorrt."""

    compiler: Any
    program: ExportedProgram
    example: tuple[Tensor, ...]
    rung: Rung
    device: str

    @property
    def block_size(self) -> int:
        return choose_block_size(sum(map(is_operator, self.program.graph.nodes)))


def divide(order: Order) -> fx.GraphModule:
    """The program divided as `convert` will divide it: afterwards nobody knows what went into an engine."""
    plan, _ = _compile(order, is_dry=True)
    return plan


def convert(order: Order) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """The hybrid, and the arguments that this version does not know: it would swallow them without a word."""
    return _compile(order, is_dry=False)


def draw_map(order: Order, plan: fx.GraphModule, module: fx.GraphModule) -> HybridMap:
    """The map of what `divide` and `convert` made."""
    plans = {name: getattr(child, "serialized_engine", None) for name, child in module.named_children()}
    sizes = {name: len(engine) for name, engine in plans.items() if engine is not None}
    converters, block = _converters(order.compiler), order.block_size
    return map_hybrid(plan, lambda node: explain(node, converters, block), sizes)


def choose_block_size(operators: int) -> int:
    """The fewest operators that an engine must have: of a small model, half of them, so that it gets one at all.

    >>> choose_block_size(200), choose_block_size(6), choose_block_size(1)
    (5, 3, 1)
    """
    return max(1, min(SMALLEST_BLOCK, operators // 2))


def find_unbounded(program: ExportedProgram) -> str:
    """The input and axis that may grow without end, which no engine can; "" where every size has a limit."""
    for node in program.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        for axis, size in enumerate(value.shape if isinstance(value, Tensor) else ()):
            if isinstance(size, torch.SymInt) and size.node.shape_env.bound_sympy(size.node.expr).upper in (
                int_oo,
                None,
            ):
                return f"axis {axis} of '{node.name}'"
    return ""


def has_doubles(program: ExportedProgram) -> bool:
    """Whether anything is computed in float64, which no engine can: it is truncated there, and judged."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    return any(isinstance(value, Tensor) and value.dtype is torch.float64 for value in values)


def _compile(order: Order, *, is_dry: bool) -> tuple[fx.GraphModule, tuple[str, ...]]:
    known = _parameters(order.compiler)
    with tempfile.TemporaryDirectory(prefix="torchere-timing-") as scratch:
        want = _settings(order) | {"timing_cache_path": f"{scratch}/timing.cache", "dryrun": is_dry}
        given = {name: value for name, value in want.items() if name in known}
        try:
            module = order.compiler.dynamo.compile(order.program, arg_inputs=list(order.example), **given)
        except Exception as error:  # the compiler's own kinds are many
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0][:300] if lines else "TensorRT's own messages are in the log"
            raise BuildFailed(f"Torch-TensorRT failed: {type(error).__name__}: {reason}") from error
    if not any(map(is_engine, module.graph.nodes)):
        reason = f"no block of {order.block_size} or more operators can become a TensorRT engine"
        raise BuildFailed(f"{reason}: {_unknown(module, order.compiler)}")
    return module, tuple(sorted(set(want) - set(given)))


def _settings(order: Order) -> dict[str, Any]:
    """What is asked of Torch-TensorRT. Its engine cache stays off: its key has neither weights nor arguments."""
    want: dict[str, Any] = {
        "device": order.compiler.Device(gpu_id=torch.device(order.device).index),
        "min_block_size": order.block_size,
        "disable_tf32": order.rung.precision != "tf32",
        "sparse_weights": SPARSE in order.rung.variant.split(),
        "truncate_double": has_doubles(order.program),
        "immutable_weights": True,
        "cache_built_engines": False,
        "reuse_cached_engines": False,
    }
    if "fallback_data_dependent_ops" in _parameters(order.compiler):
        return want | {"fallback_data_dependent_ops": True}
    # An engine with outputs of unknown size waits for the GPU inside, and no CUDA graph can hold it.
    return want | {"torch_executed_ops": {"torch.ops.aten.nonzero.default"}}


def _parameters(compiler: Any) -> Mapping[str, Any]:
    return inspect.signature(compiler.dynamo.compile).parameters


def _converters(compiler: Any) -> Any:
    return compiler.dynamo.conversion.DYNAMO_CONVERTERS


def _unknown(plan: fx.GraphModule, compiler: Any) -> str:
    """The operators that no converter takes, for the sentence that says why there is no engine."""
    converters = _converters(compiler)
    nodes = [node for node in plan.graph.nodes if is_operator(node) and node not in converters]
    return ", ".join(dict.fromkeys(str(node.target) for node in nodes)) or "the model is too small"
