"""FP8 and INT8 for TensorRT: ModelOpt puts quantisers into the layers and calibrates them on the model's own data.

Knows nothing of engines. A model that was trained with ModelOpt's quantisers passes through as it is. What is made here
is exported under `exporting`, built by `backends/tensorrt.py` and judged like every other candidate.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from compiler.errors import BuildFailed, ToolMissing, Unsupported
from compiler.jobs import Interface, Place
from compiler.limits import find_refusal
from compiler.load import Opened
from compiler.spec import Rung
from compiler.tools import find_tensorrt

CONFIGS = {"int8": "INT8_DEFAULT_CFG", "fp8": "FP8_DEFAULT_CFG"}


def quantize_modelopt(
    opened: Opened, interface: Interface, place: Place, rung: Rung, batches: Sequence[tuple[Tensor, ...]]
) -> Opened:
    """The model with calibrated quantisers, half precision around them. `batches` are on the CPU.

    Raises Unsupported, ToolMissing or BuildFailed.
    """
    refusal = find_refusal(rung.precision, find_tensorrt() or "", torch.cuda.get_device_capability(place.device))
    if refusal:
        raise Unsupported(refusal)
    if is_quantized(opened):
        return opened
    if opened.program is not None or opened.kind == "torchscript":
        raise BuildFailed(
            "ModelOpt quantises the layers of a Python module, and a program has none left: "
            "give the model as model.py with model.safetensors"
        )
    if not batches:
        raise BuildFailed(
            f"{rung.precision} needs calibration data: put calibration.safetensors beside the model's file"
        )
    quantization = import_modelopt()
    loop = _calibration_loop(batches, place.device)
    module = make_half(opened.module, loop)
    with torch.no_grad():
        quantization.quantize(module, getattr(quantization, CONFIGS[rung.precision]), forward_loop=loop)
    if not mend_quantizers(module):
        raise BuildFailed("ModelOpt found no layer to quantise: it knows Linear, convolutions and their kin")
    return Opened(opened.kind, module.eval(), None)


def is_quantized(opened: Opened) -> bool:
    """Whether the model has ModelOpt's quantisers, as layers or as operators of a program."""
    if opened.program is not None:
        return any("tensorrt.quantize_op" in str(node.target) for node in opened.program.graph.nodes)
    return any(type(module).__name__ == "TensorQuantizer" for module in opened.module.modules())


def exporting(quantized: bool) -> contextlib.AbstractContextManager[Any]:
    """Inside, quantisers export as the operators that TensorRT knows."""
    if not quantized:
        return contextlib.nullcontext()
    import_modelopt()
    utilities = importlib.import_module("modelopt.torch.quantization.utils")
    mode: contextlib.AbstractContextManager[Any] = utilities.export_torch_mode()
    return mode


def import_modelopt() -> Any:
    """`modelopt.torch.quantization`, which must be imported before torch_tensorrt. Raises ToolMissing."""
    try:
        return importlib.import_module("modelopt.torch.quantization")
    except ImportError as error:
        raise ToolMissing(
            f"quantising for TensorRT needs ModelOpt: pip install 'torchere[quantization]' ({error})"
        ) from error


class HalfInside(nn.Module):
    """A module of half precision that takes and gives what the float32 one did."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        result = self.model(*(tensor.half() if tensor.is_floating_point() else tensor for tensor in inputs))
        return pytree.tree_map_only(
            Tensor, lambda tensor: tensor.float() if tensor.dtype is torch.half else tensor, result
        )


def make_half(module: nn.Module, run: Callable[[nn.Module], None]) -> nn.Module:
    """The module in half precision where `run` then still runs, else as it was: what is not quantised is faster so."""
    if next((parameter.dtype for parameter in module.parameters()), None) is not torch.float32:
        return module
    half = HalfInside(copy.deepcopy(module).half())
    try:
        run(half)
    except RuntimeError:  # it casts to float inside
        return module
    return half


def mend_quantizers(module: nn.Module) -> int:
    """The number of quantisers in use; a channel of zeros gets a scale of one, for its own would divide by zero."""
    used = 0
    for quantizer in module.modules():
        if type(quantizer).__name__ != "TensorQuantizer" or not getattr(quantizer, "is_enabled", False):
            continue
        used += 1
        highest = getattr(quantizer, "amax", None)
        if isinstance(highest, Tensor) and bool((highest <= 0).any()):
            quantizer.amax = torch.where(highest > 0, highest, torch.ones_like(highest))
    return used


def _calibration_loop(batches: Sequence[tuple[Tensor, ...]], device: str) -> Callable[[nn.Module], None]:
    def run(module: nn.Module) -> None:
        # Not inference_mode: tensors that are made in it cannot be exported.
        with torch.inference_mode(False), torch.no_grad():
            for batch in batches:
                module(*(tensor.to(device) for tensor in batch))

    return run
