"""Decides which candidates are tried for one model on one device, simplest first, and says of others why not.

Pure: knows nothing of torch, files or processes. `pipeline.py` builds what is planned here, `choose.py` picks one.
"""

from __future__ import annotations

import msgspec

from compiler.jobs import Described
from compiler.limits import find_refusal, parse_capability
from compiler.spec import BACKENDS, PRECISIONS, Options, Rung, Target

# What a device tries where the owner leaves it to us. No half precision on a CPU: few have instructions for it.
AUTO_PRECISIONS = {"cpu": ("fp32",), "cuda": ("fp32", "tf32", "fp16")}
# Tried as well where calibration data or a quantised model say that the owner wants it.
AUTO_QUANTIZED = {"cpu": ("int8",), "cuda": ("fp8", "int8")}
AUTO_BACKENDS = {"cpu": ("eager", "torchscript", "inductor"), "cuda": BACKENDS}

PRUNED = "2:4"  # the variant whose weights have two zeros in each group of four

# Ways of one backend at one precision that compete: which is right, and which is fast, depends on the processor.
CPU_INT8 = {"torchscript": ("onednn", "x86", "dynamic"), "inductor": ("pt2e",)}
STATIC_INT8 = ("onednn", "x86", "pt2e")  # these need calibration, unless the model was trained with quantisers
TENSORRT = ("dynamic", "static")


class Planned(msgspec.Struct, frozen=True):
    """A rung, and why it will not be tried ("" where it will)."""

    rung: Rung
    refusal: str = ""


def plan(options: Options, target: Target, described: Described) -> tuple[Planned, ...]:
    """The ladder: by backend, then by precision, both simplest first; what was not asked for is not in it.

    Eager float32 is the reference itself. It stands on every ladder, except where `strict` and a list without it
    say that nothing else than the list may be served.
    """
    kind = target.kind
    backends = options.backends if options.backends is not None else AUTO_BACKENDS[kind]
    if "eager" not in backends and not options.strict:
        backends = ("eager", *backends)
    precisions = _precisions(options, kind, described)
    planned = [Planned(Rung("eager"))] if "eager" in backends else []
    for backend in (name for name in BACKENDS if name in backends and name != "eager"):
        for precision in (name for name in PRECISIONS if name in precisions):
            planned += _rungs(backend, precision, options, kind, described)
    return tuple(_limit(one, target) for one in planned)


def _precisions(options: Options, kind: str, described: Described) -> tuple[str, ...]:
    if options.precisions is not None:
        return options.precisions
    is_quantizable = described.is_calibrated or bool(described.quantization)
    return (*AUTO_PRECISIONS[kind], *(AUTO_QUANTIZED[kind] if is_quantizable else ()))


def _rungs(backend: str, precision: str, options: Options, kind: str, described: Described) -> list[Planned]:
    refusal = refuse(backend, precision, kind)
    if refusal:
        # Where it was not asked for by name, a combination that no device has is not worth a line.
        asked = options.precisions is not None or options.backends is not None
        return [Planned(Rung(backend, precision), refusal)] if asked else []
    planned = [
        Planned(Rung(backend, precision, variant), _refuse_variant(variant, described))
        for variant in _variants(backend, precision, described)
    ]
    if options.sparsity == "prune" and precision == ("fp32" if kind == "cpu" else "fp16"):
        planned += [
            Planned(Rung(backend, precision, " ".join(filter(None, (one.rung.variant, PRUNED))))) for one in planned
        ]
    return planned


def refuse(backend: str, precision: str, kind: str) -> str:
    """Why a backend has no such precision on a device of this kind; "" where it may have."""
    if backend == "tensorrt":
        return "TensorRT needs an NVIDIA GPU" if kind != "cuda" else ""
    if precision == "tf32":
        return (
            "TF32 is a switch of the whole process in PyTorch, which would change other models: "
            "only TensorRT engines carry it"
            if kind == "cuda"
            else "TF32 is a format of NVIDIA GPUs"
        )
    if precision == "fp8":
        return "FP8 needs TensorRT engines on a GPU"
    if precision == "int8" and kind != "cpu":
        return "INT8 on a GPU needs TensorRT engines"
    return ""


def _limit(planned: Planned, target: Target) -> Planned:
    """With the reason why this GPU or this TensorRT cannot do it, before a builder is started for nothing."""
    if planned.refusal or planned.rung.backend != "tensorrt":
        return planned
    reason = find_refusal(planned.rung.precision, target.tensorrt, parse_capability(target.capabilities))
    return Planned(planned.rung, reason)


def _variants(backend: str, precision: str, described: Described) -> tuple[str, ...]:
    if backend == "tensorrt":
        # Without a batch dimension there is one size and nothing to choose.
        return TENSORRT if described.interface.max_batch_size else TENSORRT[1:]
    if precision != "int8":
        return ("",)
    # A model that was trained with quantisers is served as trained: nothing is left to choose dynamically.
    return tuple(name for name in CPU_INT8[backend] if not described.quantization or name in STATIC_INT8)


def _refuse_variant(variant: str, described: Described) -> str:
    if variant in STATIC_INT8 and not described.is_calibrated and not described.quantization:
        return (
            "static INT8 needs calibration data: put calibration.safetensors or calibration.py beside the model's file"
        )
    return ""
