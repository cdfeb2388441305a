"""Says what no TensorRT engine can do here, whatever the model: by precision, flavour, version and GPU.

Pure; the flavour is the text of `Target.tensorrt`. `ladder.py` asks before it plans a rung, the builders before they
begin one.
"""

from __future__ import annotations

import re

FP8_CAPABILITY = (8, 9)  # Ada Lovelace: the first GPUs with FP8
RTX_INT8 = (2, 12)  # the first Torch-TensorRT whose RTX flavour takes INT8 activations
RTX_TF32_ONLY = (1, 4)  # up to this TensorRT-RTX, engines gave the same bits with the switch for TF32 on and off


def find_refusal(precision: str, tensorrt: str, capability: tuple[int, int]) -> str:
    """Why no engine of this precision is to be had; "" where there may be one.

    >>> find_refusal("fp8", "rtx 1.4.0.76, torch-tensorrt 2.11.0", (8, 6))
    'FP8 needs a GPU of compute capability 8.9 or newer, and this one has 8.6'
    """
    if precision == "fp8" and (0, 0) < capability < FP8_CAPABILITY:
        return f"FP8 needs a GPU of compute capability 8.9 or newer, and this one has {capability[0]}.{capability[1]}"
    if not tensorrt.startswith("rtx"):
        return ""
    rtx, bridge = _version(r"rtx (\d+)\.(\d+)", tensorrt), _version(r"torch-tensorrt (\d+)\.(\d+)", tensorrt)
    if precision == "fp32" and rtx and rtx <= RTX_TF32_ONLY:
        return f"TensorRT-RTX {rtx[0]}.{rtx[1]} computes float32 as TF32 whatever it is told: tf32 is the same engine"
    if precision == "int8" and bridge and bridge < RTX_INT8:
        return (
            f"TensorRT-RTX takes INT8 activations from Torch-TensorRT 2.12 on, and this is {bridge[0]}.{bridge[1]}; "
            "the standard flavour takes them"
        )
    return ""


def parse_capability(capabilities: tuple[str, ...]) -> tuple[int, int]:
    """The compute capability in `Target.capabilities`, (0, 0) where there is none.

    >>> parse_capability(("sm_90", "132 SMs")), parse_capability(("sm_100", "148 SMs"))
    ((9, 0), (10, 0))
    """
    found = next((word.removeprefix("sm_") for word in capabilities if word.startswith("sm_")), "00")
    return int(found[:-1]), int(found[-1])


def _version(pattern: str, text: str) -> tuple[int, int] | None:
    found = re.search(pattern, text)
    return (int(found[1]), int(found[2])) if found else None
