"""What the owner of a model says of it, as frozen values.

Pure, and knows nothing of pydantic or YAML: every process holds such values, while only the parent reads files. It does
so in `config.py`.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from compiler.spec import Factory, Options, Padding, TensorSpec, Tolerance
from service.repository.scheduling import Ensemble, Sequencing, Steps
from service.repository.versions import Latest, VersionPolicy

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # safe in a URL, a path, a metric's label


class Batching(msgspec.Struct, frozen=True):
    """How requests of one model wait: `max_queue_delay_us` for company, at most `max_queue_size` of them.

    `timeout_us` is how long a request may wait that brings no timeout of its own; 0: as long as it takes. A batch that
    runs longer than `batch_timeout_s` hangs; 0: the server says how long.
    """

    max_queue_delay_us: int = 0
    max_queue_size: int = 1024
    timeout_us: int = 0
    timeout_action: Literal["reject", "delay"] = "reject"  # what becomes of those: refused, or others go first
    preferred_batch_sizes: tuple[int, ...] = ()  # rows; with a delay: as soon as so many wait, the delay is over
    split: bool = True  # requests of more rows than a batch holds are run in parts
    max_request_rows: int = 0  # where they are; 0: those of 64 batches
    preserve_ordering: bool = False  # answers leave in the order of the requests
    batch_timeout_s: float = 0.0
    pad: Padding | None = None  # how requests of other sizes come to share a batch


class ImageInput(msgspec.Struct, frozen=True):
    """The input that takes an image file, and how the picture is fitted to the input's height and width.

    `fit` is "crop" (the centre, `crop_fraction` of it), "stretch" or "pad"; `color` "RGB" or "L" (grey).
    """

    input: str
    fit: Literal["crop", "stretch", "pad"] = "crop"
    crop_fraction: float = 0.875
    color: Literal["RGB", "L"] = "RGB"


class ModelConfig(msgspec.Struct, frozen=True):
    """What the owner of a model says of it. None means: read it from the program, or choose."""

    name: str
    description: str = ""
    max_batch_size: int | None = None
    inputs: tuple[TensorSpec, ...] | None = None
    outputs: tuple[TensorSpec, ...] | None = None
    labels: dict[str, tuple[str, ...]] = {}
    images: tuple[ImageInput, ...] = ()
    batching: Batching = Batching()
    buckets: tuple[int, ...] | None = None
    backends: tuple[str, ...] | None = None
    precisions: tuple[str, ...] | None = None
    objective: Literal["latency", "throughput"] = "throughput"
    tolerances: dict[str, Tolerance] = {}
    max_accuracy_drop: float = 0.01
    sparsity: Literal["report", "prune"] = "report"
    strict: bool = False
    timeout_s: float | None = None
    trust: bool = False
    startup: Literal["wait", "fallback"] | None = None
    factory: Factory | None = None
    requires: tuple[str, ...] = ()
    instances: int = 1
    version_policy: VersionPolicy = Latest()
    version_labels: dict[str, str] = {}  # label -> version
    response_cache: bool = False
    defaults: dict[str, bool | int | float | str] = {}  # by input: what fills it where a request leaves it out
    sequencing: Sequencing | None = None
    ensemble: Ensemble | None = None
    steps: Steps | None = None


def to_options(config: ModelConfig, threads: int, timeout_s: float = Options().timeout_s) -> Options:
    """What to ask of the compiler; `threads` and `timeout_s` are the service's, where the model sets none."""
    return Options(
        inputs=config.inputs,
        outputs=config.outputs,
        max_batch_size=config.max_batch_size,
        buckets=config.buckets,
        backends=config.backends,
        precisions=config.precisions,
        objective=config.objective,
        tolerances=config.tolerances,
        max_accuracy_drop=config.max_accuracy_drop,
        sparsity=config.sparsity,
        strict=config.strict,
        timeout_s=config.timeout_s or timeout_s,
        threads=threads or None,
        pad=config.batching.pad,
    )
