"""What crosses the border between the compiling process and its builders: jobs go in, notes and one answer come out.

Knows nothing of torch or of pipes. `isolate.py` carries these messages, `builder.py` does what a job says.
"""

from __future__ import annotations

import msgspec

from compiler.manifest import OutputError
from compiler.spec import Options, TensorSpec


class Interface(msgspec.Struct, frozen=True):
    """What a model takes and gives, resolved; the same fields as in the manifest."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    buckets: tuple[int, ...]


class Case(msgspec.Struct, frozen=True):
    """One golden input with the reference's answer, in a safetensors file.

    `batch` is the number of rows, 0 for a model without a batch dimension. Only the cases that are `timed` are buckets.
    """

    label: str
    batch: int
    path: str
    timed: bool


class Place(msgspec.Struct, frozen=True):
    """Where a builder finds the model (a copy of its files), how errors name it, and on which device it works."""

    folder: str
    origin: str  # the folder as the model's owner knows it
    device: str


class Describe(msgspec.Struct, frozen=True, tag=True):
    """Open the model, run the reference and write golden cases into `goldens`. Answered by `Described`."""

    place: Place
    options: Options
    goldens: str


class Build(msgspec.Struct, frozen=True, tag=True):
    """Build one candidate into the folder `out`. Answered by `Built`."""

    place: Place
    options: Options
    interface: Interface
    backend: str
    precision: str
    out: str


class Judge(msgspec.Struct, frozen=True, tag=True):
    """Load each candidate from its folder (backend -> folder), compare with the cases, time those that pass.

    Answered by `Judged`, with one verdict for each.
    """

    place: Place
    options: Options
    interface: Interface
    cases: tuple[Case, ...]
    folders: dict[str, str]


class Note(msgspec.Struct, frozen=True, tag=True):
    """Progress: what a builder begins."""

    stage: str
    message: str
    candidate: str | None = None


class Verdict(msgspec.Struct, frozen=True, tag=True):
    """What verification made of one candidate; `reason` is empty where it passed."""

    backend: str
    errors: tuple[OutputError, ...]
    outcome: str = "passed"
    reason: str = ""


class Described(msgspec.Struct, frozen=True, tag=True):
    interface: Interface
    cases: tuple[Case, ...]


class Built(msgspec.Struct, frozen=True, tag=True):
    how: str = ""  # what the owner may want to know of the way, as "scripted: tracing would freeze a size"


class Judged(msgspec.Struct, frozen=True, tag=True):
    verdicts: tuple[Verdict, ...]
    milliseconds: dict[str, dict[int, float]]  # backend -> batch size -> median time of one call


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The job failed for a reason that has a sentence: the name of a class in errors.py, and the sentence."""

    error: str
    message: str


Job = Describe | Build | Judge
Answer = Described | Built | Judged | Refused
Report = Note | Answer
