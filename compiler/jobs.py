"""What crosses the border between the compiling process and its builders: jobs go in, notes and one answer come out.

Knows nothing of torch or of pipes. `isolate.py` carries these messages, `builder.py` does what a job says.
"""

from __future__ import annotations

import msgspec

from compiler.manifest import HybridMap, LayerSparsity, OutputError, PaddedTime
from compiler.spec import Factory, Options, Padding, Rung, TensorSpec


class Interface(msgspec.Struct, frozen=True):
    """What a model takes and gives, resolved; the same fields as in the manifest, and how its inputs are padded."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    buckets: tuple[int, ...]
    pad: Padding | None = None


class Case(msgspec.Struct, frozen=True):
    """One golden input with the reference's answer, in a safetensors file.

    `batch` is the number of rows, 0 for a model without a batch dimension. Only the cases that are `timed` are buckets.
    `is_foreign`: random values where the model's own data exist; what was calibrated on those owes such values nothing
    but finite answers of the right shape.
    """

    label: str
    batch: int
    path: str
    timed: bool
    is_foreign: bool = False
    sizes: tuple[int, ...] = ()


class Place(msgspec.Struct, frozen=True):
    """Where a builder finds the model (a copy of its files), how errors name it, and on which device it works."""

    folder: str
    origin: str  # the folder as the model's owner knows it
    device: str
    factory: Factory | None = None


class Describe(msgspec.Struct, frozen=True, tag=True):
    """Open the model, run the reference and write golden cases into `goldens`. Answered by `Described`.

    `goldens` "": only settle the interface and check that the model can be served; no cases.
    """

    place: Place
    options: Options
    goldens: str


class Build(msgspec.Struct, frozen=True, tag=True):
    """Build one candidate into the folder `out`. Answered by `Built`."""

    place: Place
    options: Options
    interface: Interface
    rung: Rung
    out: str


class Entrant(msgspec.Struct, frozen=True):
    """A candidate as it enters the race: what it is, and the folder of its files."""

    rung: Rung
    folder: str


class Judge(msgspec.Struct, frozen=True, tag=True):
    """Load each candidate from its folder, compare with the cases and samples, time those that pass.

    Answered by `Judged`, with one verdict for each. `samples` is a case file of labelled inputs, "" where there are
    none; `reference_accuracy` what the reference reached on them.
    """

    place: Place
    options: Options
    interface: Interface
    cases: tuple[Case, ...]
    entrants: tuple[Entrant, ...]
    quantization: str = ""
    samples: str = ""
    reference_accuracy: float | None = None


class Note(msgspec.Struct, frozen=True, tag=True):
    """Progress: what a builder begins."""

    stage: str
    message: str
    candidate: str | None = None


class Verdict(msgspec.Struct, frozen=True, tag=True):
    """What verification made of one candidate, by the name of its rung; `reason` is empty where it passed."""

    name: str
    errors: tuple[OutputError, ...]
    outcome: str = "passed"
    reason: str = ""
    accuracy: float | None = None
    memory: int = 0  # bytes on the device
    graphs: tuple[int, ...] = ()  # batch sizes whose CUDA graph gives what the plain call gives


class Described(msgspec.Struct, frozen=True, tag=True):
    """`quantization`: "" for an ordinary model; "fx", "modelopt" or "qdq" for one that was trained with quantisers.

    `samples` is the case file of the labelled samples, of which there are `sample_count`.
    """

    interface: Interface
    cases: tuple[Case, ...]
    quantization: str = ""
    is_calibrated: bool = False  # calibration data lie beside the model
    samples: str = ""
    sample_count: int = 0
    reference_accuracy: float | None = None
    sparsity: tuple[LayerSparsity, ...] = ()


class Built(msgspec.Struct, frozen=True, tag=True):
    """`how` is what the owner may want to know of the way, as "scripted: tracing would freeze a size"."""

    how: str = ""
    hybrid: HybridMap | None = None
    ignored: tuple[str, ...] = ()


class Judged(msgspec.Struct, frozen=True, tag=True):
    verdicts: tuple[Verdict, ...]
    milliseconds: dict[str, dict[int, float]]  # name of the rung -> batch size -> median time of one call
    padded: dict[str, tuple[PaddedTime, ...]] = {}  # by the rung; then those are the means over all sizes


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The job failed for a reason that has a sentence: the name of a class in errors.py, and the sentence."""

    error: str
    message: str


Job = Describe | Build | Judge
Answer = Described | Built | Judged | Refused
Report = Note | Answer
