"""The torch dtype of each Open Inference Protocol datatype, and how torch's arithmetic is set for "fp32".

Imports torch, so only builders and engines import it. `spec.py` has the sizes of the datatypes without torch.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch

TORCH_TYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "UINT8": torch.uint8,
    "UINT16": torch.uint16,
    "UINT32": torch.uint32,
    "UINT64": torch.uint64,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP32": torch.float32,
    "FP64": torch.float64,
}
DATATYPES = {dtype: name for name, dtype in TORCH_TYPES.items()}


def set_exact_float32() -> None:
    """Let float32 mean float32 in this process: TF32, torch's default for convolutions, rounds to 10 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def quiet_torchscript() -> Iterator[None]:
    """Silence what every torch.jit entry point warns of: it is deprecated, works, and has no removal date."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        yield
