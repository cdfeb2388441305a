"""What an artifact is: its files and their digests, inputs and outputs, the ladder of candidates and why one won.

Knows nothing of torch or of how an artifact is made. `package.py` writes manifests, the service reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from compiler.spec import Rung, Target, TensorSpec

MANIFEST_NAME = "manifest.json"
SCHEMA = 2

# skipped: a tool is missing here. unsupported: this device or flavour cannot do it, whatever is installed.
Outcome = Literal["chosen", "passed", "slower", "inaccurate", "failed", "skipped", "unsupported"]


class FileEntry(msgspec.Struct, frozen=True):
    """One file of an artifact, relative to its folder."""

    path: str
    size: int  # bytes
    sha256: str


class OutputError(msgspec.Struct, frozen=True):
    """The worst difference of one output from the float32 eager reference over all verified batch sizes."""

    name: str
    relative_l2: float
    max_abs: float  # relative to the largest magnitude of the reference


class Segment(msgspec.Struct, frozen=True):
    """One part of a hybrid module, in the order of execution: a TensorRT engine, or a subgraph that stayed in PyTorch.

    `operators` counts them by name; `layers` are the modules of the model they came from; `bytes_in` and `bytes_out`
    cross its borders at the smallest batch.
    """

    kind: Literal["tensorrt", "torch"]
    name: str
    operators: dict[str, int]
    layers: tuple[str, ...] = ()
    bytes_in: int = 0
    bytes_out: int = 0
    engine_bytes: int = 0


class Remainder(msgspec.Struct, frozen=True):
    """An operator that stayed in PyTorch, how often, and why."""

    operator: str
    count: int
    reason: str


class HybridMap(msgspec.Struct, frozen=True):
    """How a hybrid module divides the model: its segments in order, and what could not become TensorRT.

    `operator_coverage` and `parameter_coverage` are the shares (0 to 1) that lie in engines.
    """

    segments: tuple[Segment, ...]
    remainders: tuple[Remainder, ...] = ()
    operator_coverage: float = 0.0
    parameter_coverage: float = 0.0

    @property
    def engines(self) -> int:
        return sum(segment.kind == "tensorrt" for segment in self.segments)


class LayerSparsity(msgspec.Struct, frozen=True):
    """Whether the weight of one layer is 2:4 sparse along its input channels; `zeros` is the share of zeros."""

    layer: str
    shape: tuple[int, ...]
    is_two_of_four: bool
    zeros: float


class PaddedTime(msgspec.Struct, frozen=True):
    """What a call of so many rows takes, padded to these sizes of the dimensions that are padded (median)."""

    rows: int
    sizes: tuple[int, ...]
    milliseconds: float


class Candidate(msgspec.Struct, frozen=True):
    """One rung of the ladder: what became of one backend at one precision, and why.

    `accuracy` is top-1 on the labelled samples, None where there are none. `memory` is what loading and running it took
    on its device, in bytes. `ignored` are arguments that this version of the backend's compiler does not know.
    """

    backend: str
    precision: str
    outcome: Outcome
    reason: str = ""
    errors: tuple[OutputError, ...] = ()
    milliseconds: dict[int, float] = {}  # batch size -> median time of one call
    build_seconds: float = 0.0
    size: int = 0  # bytes on disk
    variant: str = ""
    accuracy: float | None = None
    memory: int = 0
    hybrid: HybridMap | None = None
    ignored: tuple[str, ...] = ()
    graphs: tuple[int, ...] = ()  # batch sizes that are replayed as a CUDA graph
    padded: tuple[PaddedTime, ...] = ()  # where inputs are padded: `milliseconds` are then the means over the sizes

    @property
    def rung(self) -> Rung:
        return Rung(self.backend, self.precision, self.variant)


class Manifest(msgspec.Struct, frozen=True):
    """The whole description of an artifact; `manifest.json` in its folder.

    `inputs` and `outputs` are resolved: no name, datatype or rank is open any more, and the backend's callable takes
    and returns tensors in this order. `max_batch_size` 0: the model has no batch dimension and `buckets` is empty.
    """

    key: str
    key_parts: dict[str, str]
    target: Target
    backend: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    buckets: tuple[int, ...]
    ladder: tuple[Candidate, ...]
    files: tuple[FileEntry, ...]
    stage_seconds: dict[str, float]  # "load", "lower", "build", "verify", "race", ...
    created: str  # ISO 8601, UTC
    variant: str = ""
    reference_accuracy: float | None = None  # of the float32 reference on the labelled samples
    samples: int = 0  # labelled samples that decided
    sparsity: tuple[LayerSparsity, ...] = ()
    is_fallback: bool = False  # nothing that was asked for passed, or it serves until the ladder is done
    origin: str = ""  # "digits/1": the model and version it was first compiled from; equal models share an artifact
    schema: int = SCHEMA

    @property
    def chosen(self) -> Candidate:
        """The rung that is served."""
        return next(rung for rung in self.ladder if rung.outcome == "chosen")

    @property
    def milliseconds(self) -> dict[int, float]:
        """The chosen candidate's time of one call, by batch size."""
        return self.chosen.milliseconds


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`. Raises OSError or msgspec.DecodeError without a sound one."""
    return msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=Manifest)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest` into `folder` in a form that people can read."""
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
