"""INT8 for TorchScript on a CPU, by torch.ao: layers become quantised ones, which TorchScript saves and runs.

Static: activations are quantised with ranges found on calibration data, by the recipe of the engine that will run them.
Dynamic: only Linear layers, whose inputs are measured at each call. Trained: FakeQuantize modules know their ranges.

Knows nothing of TorchScript. torch.ao traces or replaces modules written in Python; `pt2e.py` takes any program.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization import (
    FakeQuantizeBase,
    convert,
    get_default_qconfig_mapping,
    per_channel_dynamic_qconfig,
)
from torch.ao.quantization import quantize_dynamic as replace_linears
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from compiler.errors import BuildFailed, Unsupported
from compiler.load import Opened
from compiler.quantize.clamp import has_clamps, insert_clamps, relax, remove_clamps
from compiler.quantize.engine import engine_of, packed_by, quiet_torch_ao

OBSERVED = "_observed_graph_module_attrs"  # where prepare_fx and prepare_qat_fx leave what convert_fx needs


def check_source(opened: Opened) -> None:
    """Raises Unsupported for a model that is not made of Python modules."""
    if opened.program is not None or opened.kind == "torchscript":
        what = "a TorchScript file" if opened.program is None else "an exported program"
        raise Unsupported(
            f"torch.ao quantises the layers of a Python module, and {what} has none left: "
            "inductor quantises it (pt2e), or give the model as model.py with model.safetensors"
        )


def quantize_static(opened: Opened, batches: Sequence[tuple[Tensor, ...]], engine: str) -> Opened:
    """The model with quantised layers, calibrated on `batches`. Raises BuildFailed."""
    if not batches:
        raise BuildFailed("static INT8 needs calibration data: put calibration.safetensors beside the model's file")
    with packed_by(engine), quiet_torch_ao(), torch.no_grad():
        try:
            prepared, clamps = _prepare(opened.module, engine, batches[0])
            for batch in batches:
                prepared(*batch)
            remove_clamps(prepared, clamps)
            converted = convert_fx(prepared)
        except Exception as error:  # torch.fx and torch.ao raise many kinds
            raise BuildFailed(f"torch.ao cannot quantise the model: {_explain(error)}") from error
    return _checked(opened, converted)


def _prepare(module: nn.Module, engine: str, example: tuple[Tensor, ...]) -> tuple[fx.GraphModule, list[fx.Node]]:
    """The model with observers, and the clamps that stand in it until it is calibrated."""
    mapping = get_default_qconfig_mapping(engine)
    if has_clamps(module):
        prepared = prepare_fx(relax(module), mapping, example)
        clamps = insert_clamps(prepared)
        if clamps is not None:
            return prepared, clamps
    return prepare_fx(module, mapping, example), []


def quantize_dynamic(opened: Opened) -> Opened:
    """The model with Linear layers of INT8 weights, a scale for each output channel. Raises BuildFailed."""
    with packed_by(engine_of("dynamic")), quiet_torch_ao():
        converted = replace_linears(  # type: ignore[no-untyped-call]
            opened.module, {nn.Linear: per_channel_dynamic_qconfig}, inplace=True
        )
    return _checked(opened, converted)


def convert_trained(opened: Opened, engine: str) -> Opened:
    """A model that was trained with FakeQuantize modules, as quantised layers of the ranges it learned.

    Raises BuildFailed.
    """
    with packed_by(engine), quiet_torch_ao(), torch.no_grad():
        try:
            converted = replace_observed(opened.module, convert_fx)
            if any(isinstance(module, FakeQuantizeBase) for module in converted.modules()):
                # Prepared layer by layer (prepare_qat), not as a graph.
                converted = convert(converted)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise BuildFailed(f"torch.ao cannot convert the trained quantisers: {_explain(error)}") from error
    return _checked(opened, converted)


def replace_observed(module: nn.Module, conversion: Any) -> nn.Module:
    """`module` with each graph that prepare_qat_fx made, itself or inside, put through `conversion`."""
    if isinstance(module, fx.GraphModule) and OBSERVED in module.meta:
        converted: nn.Module = conversion(module)
        return converted
    for name, child in module.named_children():
        setattr(module, name, replace_observed(child, conversion))
    return module


def count_quantized(module: nn.Module) -> int:
    """How many layers of `module` compute in INT8."""
    return sum(
        type(child).__module__.startswith("torch.ao.nn") and callable(getattr(child, "weight", None))
        for child in module.modules()
    )


def _checked(opened: Opened, module: nn.Module) -> Opened:
    if not count_quantized(module):
        raise BuildFailed("torch.ao found no layer to quantise: it knows Linear and convolutions written as modules")
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            _write_out_scales(part)
    return Opened(opened.kind, module.eval())


def _write_out_scales(module: fx.GraphModule) -> None:
    """Scales and zero points as numbers in the graph: as tensors, tracing takes them for decisions on data."""
    for node in list(module.graph.nodes):
        value = getattr(module, str(node.target), None) if node.op == "get_attr" else None
        if not isinstance(value, Tensor) or value.numel() != 1:
            continue
        number: Any = value.item()
        for user in list(node.users):
            if user.op == "call_function":
                user.args = fx.map_arg(user.args, partial(_swap, node, number))
        if not node.users:
            module.graph.erase_node(node)
    module.recompile()


def _explain(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _swap(old: fx.Node, new: Any, node: fx.Node) -> Any:
    return new if node is old else node
