"""The frozen values that every stage shares: what a model takes and gives, what is asked, for which machine.

Knows nothing of torch: the parent of the service imports it. `pipeline.py` passes these values from stage to stage.
"""

from __future__ import annotations

import itertools
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

BACKENDS = ("eager", "torchscript", "inductor", "tensorrt")  # simplest first: a later one must beat it by MARGIN
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")  # closest to the reference first

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


class Factory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A module made by code that is installed, not by code that came with the model: a registered name, and arguments.

    `arguments` is JSON of the keyword arguments.
    """

    name: str
    arguments: str = "{}"


class Source(msgspec.Struct, frozen=True):
    """The files of one model version: `kind` tells how they are opened.

    `pt2`: model.pt2, a torch.export program. `torchscript`: model.pt. `python`: model.py with `create_model()`,
    and model.safetensors where the factory does not bring its own weights. `factory`: model.safetensors for the
    module that an installed `factory` makes.
    `files` also names the calibration and the labelled samples that lie beside the model. `requires` are the
    distributions that the factory imports: their versions are part of the cache key.
    """

    folder: Path
    kind: Literal["pt2", "torchscript", "python", "factory"]
    files: tuple[str, ...]
    requires: tuple[str, ...] = ()
    factory: Factory | None = None


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a candidate may be from the float32 eager reference, per output.

    `relative_l2` is ||out - ref|| / ||ref||; `max_abs` the largest difference of one element, relative to the
    largest magnitude in the reference.
    """

    relative_l2: float = 1e-4
    max_abs: float = 1e-3


# By precision. An element of fp16 is right to 5e-4, of bf16 to 4e-3, of fp8 to 6e-2; a network multiplies that by about
# ten. What a quantised model may lose is decided by labelled samples where there are any: these only catch nonsense.
TOLERANCES = {
    "fp32": Tolerance(1e-4, 1e-3),
    "tf32": Tolerance(5e-3, 2e-2),
    "fp16": Tolerance(1e-2, 5e-2),
    "bf16": Tolerance(5e-2, 1e-1),
    "fp8": Tolerance(1.5e-1, 3e-1),
    "int8": Tolerance(3e-1, 5e-1),  # of the softmax of a network that loses no accuracy: up to 0.15 and 0.26
}


class Padding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes that vary from request to request and are padded to the next of a few, so that requests share batches.

    `dims`: a dimension's name -> the sizes that run, rising. `inputs` and `outputs`: a tensor's name -> axis -> the
    dimension that the axis has the size of; axis 0 is the batch. Of outputs each request gets its own part back.
    Padding is 0, or what `values` says. `masks` are inputs, of those in `inputs`, that are 1 where a request's own
    elements are and 0 in the padding. `check`: a model whose answers depend on the padding is refused.
    """

    dims: dict[str, tuple[int, ...]]
    inputs: dict[str, dict[int, str]]
    outputs: dict[str, dict[int, str]] = {}
    masks: tuple[str, ...] = ()
    values: dict[str, bool | int | float] = {}
    check: bool = True

    @property
    def sizes(self) -> tuple[tuple[int, ...], ...]:
        """Every set of sizes that runs, smallest first: one size for each dimension, in the order of `dims`."""
        return tuple(itertools.product(*self.dims.values()))


class Rung(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One candidate to try: a backend at a precision, and which of several ways where there are several.

    >>> Rung("torchscript", "int8", "onednn").name
    'torchscript int8 onednn'
    """

    backend: str
    precision: str = "fp32"
    variant: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.backend, self.precision, self.variant)))


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the owner of a model asks of the compiler. None means: read it from the program, or choose.

    `max_batch_size` 0 says that the model has no batch dimension. `buckets` are the batch sizes that are verified,
    timed and served; the last is `max_batch_size`. `backends` None: those that the device can use; `precisions` None:
    the device's default. `tolerances` replace TOLERANCES by precision. `max_accuracy_drop` is what top-1 accuracy on
    the labelled samples may fall below the reference's (0.01: one point in a hundred). `strict`: every backend
    must pass at every precision that is tried, in one of its ways, else the model does not load; without it, eager is
    served where nothing else is left.
    """

    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    max_batch_size: int | None = None
    buckets: tuple[int, ...] | None = None
    backends: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    objective: Literal["latency", "throughput"] = "throughput"
    tolerances: dict[str, Tolerance] = {}
    max_accuracy_drop: float = 0.01
    sparsity: Literal["report", "prune"] = "report"
    strict: bool = False
    timeout_s: float = 900.0  # AOTInductor needs a minute for a large CNN on two cores
    threads: int | None = None  # intra-op threads that serving will use; timing uses the same
    pad: Padding | None = None

    def tolerance(self, precision: str) -> Tolerance:
        """The model's own where it has one, else the default."""
        return self.tolerances.get(precision, TOLERANCES[precision])


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
    tensorrt: str = ""  # "rtx 1.4.0.76, torch-tensorrt 2.11.0"; "" where it is not installed or the device is no GPU
    quantizers: str = ""  # the versions of the libraries that quantise: "modelopt 0.47.0, torchao 0.18.0"

    @property
    def kind(self) -> str:
        """The device without its number: "cpu" or "cuda"."""
        return self.device.partition(":")[0]
