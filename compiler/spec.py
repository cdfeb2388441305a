"""The frozen values that every stage shares: what a model takes and gives, what is asked, for which machine.

Knows nothing of torch: the parent of the service imports it. `pipeline.py` passes these values from stage to stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

# Open Inference Protocol v2 datatype -> bytes per element. BYTES has no fixed size and no torch dtype.
ITEM_SIZES = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}

BACKENDS = ("eager", "torchscript", "inductor")  # simplest first: a later one must beat the earlier by MARGIN

DEFAULT_MAX_BATCH_SIZE = 64  # where a program's batch dimension has no upper bound and model.yaml sets none


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a model.

    `shape` has -1 for every dimension that may vary, and includes the batch dimension (-1, first) where the model
    batches. `range` bounds the random values that verify the model; `example_shape` gives the sizes to use for
    the dimensions that vary besides the batch when the model is verified and timed.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    range: tuple[float, float] | None = None
    example_shape: tuple[int, ...] | None = None


class Source(msgspec.Struct, frozen=True):
    """The files of one model version: `kind` tells how they are opened.

    `pt2`: model.pt2, a torch.export program. `torchscript`: model.pt. `python`: model.py with `create_model()`,
    and model.safetensors where the factory does not bring its own weights.
    `requires` are the distributions that the factory imports: their versions are part of the cache key.
    """

    folder: Path
    kind: Literal["pt2", "torchscript", "python"]
    files: tuple[str, ...]
    requires: tuple[str, ...] = ()


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a candidate may be from the float32 eager reference, per output.

    `relative_l2` is ||out - ref|| / ||ref||; `max_abs` the largest difference of one element, relative to the
    largest magnitude in the reference.
    """

    relative_l2: float = 1e-4
    max_abs: float = 1e-3


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the owner of a model asks of the compiler. None means: read it from the program, or choose.

    `max_batch_size` 0 says that the model has no batch dimension. `buckets` are the batch sizes that are verified,
    timed and served; the last is `max_batch_size`.
    """

    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    max_batch_size: int | None = None
    buckets: tuple[int, ...] | None = None
    backends: tuple[str, ...] = BACKENDS
    objective: Literal["latency", "throughput"] = "throughput"
    tolerance: Tolerance = Tolerance()
    timeout_s: float = 900.0  # AOTInductor needs a minute for a large CNN on two cores
    threads: int | None = None  # intra-op threads that serving will use; timing uses the same


class Target(msgspec.Struct, frozen=True):
    """The machine and the libraries an artifact is made for: every field is part of the cache key.

    `device` is "cpu" or "cuda:N"; `name` the processor's name; `capabilities` the instruction sets of a CPU
    (avx2, avx512f, ...) or ("sm_90", "132 SMs") of a GPU.
    """

    device: str
    name: str
    capabilities: tuple[str, ...]
    torch: str
    cuda: str | None
    system: str  # "Linux-x86_64"
    python: str  # "3.11"

    @property
    def kind(self) -> str:
        """The device without its number: "cpu" or "cuda"."""
        return self.device.partition(":")[0]
