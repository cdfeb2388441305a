"""Brings an opened model to the precision of a rung; the backends build whatever comes out of here.

    quantize(opened, interface, place, Rung("torchscript", "int8", "onednn"), options) -> Opened

    cast.py       fp16, bf16          fx.py         int8 for TorchScript on a CPU
    sparsity.py   2:4 pruning         pt2e.py       int8 for AOTInductor on a CPU
    engine.py     int8 kernels        clamp.py      ReLU6 in int8
                                      modelopt.py   int8 and fp8 for TensorRT
    calibration.py                    the rows that quantisers are calibrated on, and the labelled ones that judge them

Knows nothing of how a precision is built, verified or chosen. Runs in builder processes only.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.ao.quantization import FakeQuantizeBase

from compiler.datatypes import TORCH_TYPES
from compiler.errors import BuildFailed, Unsupported
from compiler.jobs import Interface, Place
from compiler.ladder import PRUNED
from compiler.load import Opened
from compiler.quantize.calibration import has_calibration, read_calibration
from compiler.spec import Options, Rung

__all__ = ["detect_quantization", "quantize"]


def quantize(opened: Opened, interface: Interface, place: Place, rung: Rung, options: Options) -> Opened:
    """The model at the precision of `rung`; fp32 and tf32 are the same model. `opened` may be used up by it.

    Raises BuildFailed or Unsupported with the reason, ToolMissing, or LoadFailed where the calibration data are wrong.
    """
    if rung.variant.endswith(PRUNED):
        from compiler.quantize.sparsity import prune_opened

        opened = prune_opened(opened)
    match rung.precision:
        case "fp32" | "tf32":
            return opened
        case "fp16" | "bf16":
            from compiler.quantize.cast import cast

            return cast(opened, interface, place.device, TORCH_TYPES[rung.precision.upper()])
        case "fp8" | "int8" if rung.backend == "tensorrt":
            from compiler.quantize.modelopt import quantize_modelopt

            return quantize_modelopt(opened, interface, place, rung, _calibration(place, interface))
        case "int8" if place.device == "cpu":
            return _quantize_on_cpu(opened, interface, place, rung)
    raise BuildFailed(f"{rung.backend} has no {rung.precision} on {place.device}")


def detect_quantization(opened: Opened) -> str:
    """How the model was trained to be quantised.

    "fx": torch.ao's FakeQuantize modules; "modelopt": NVIDIA ModelOpt's quantisers; "qdq": a program with operators
    that quantise and dequantise; "": not at all.
    """
    if opened.program is not None:
        from compiler.quantize.pt2e import has_quantizers

        return "qdq" if has_quantizers(opened.program.graph) else ""
    modules = list(opened.module.modules())
    if any(isinstance(module, FakeQuantizeBase) for module in modules):
        return "fx"
    if any(type(module).__module__.startswith("modelopt.") for module in modules):
        return "modelopt"
    return ""


def _quantize_on_cpu(opened: Opened, interface: Interface, place: Place, rung: Rung) -> Opened:
    trained = detect_quantization(opened)
    if trained == "modelopt":
        raise Unsupported("the model was trained with ModelOpt's quantisers, which only TensorRT makes INT8 kernels of")
    if rung.backend == "inductor":
        from compiler.quantize import pt2e

        if trained == "qdq":
            return pt2e.take_program(opened, interface)
        if trained == "fx":
            return pt2e.convert_trained(opened, interface)
        return pt2e.quantize_static(opened, interface, _calibration(place, interface))
    from compiler.quantize import fx

    fx.check_source(opened)
    if rung.variant == "dynamic":
        return fx.quantize_dynamic(opened)
    if trained == "fx":
        return fx.convert_trained(opened, rung.variant)
    return fx.quantize_static(opened, _calibration(place, interface), rung.variant)


def _calibration(place: Place, interface: Interface) -> list[tuple[Tensor, ...]]:
    folder = Path(place.folder)
    return read_calibration(folder, interface) if has_calibration(folder) else []
