"""What may stand in model.yaml, as pydantic models: the edge where a file that people wrote becomes checked values.

Knows nothing of files, lines or versions on disk. `config.py` reads the file, asks here, and makes frozen values of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from compiler.spec import BACKENDS, PRECISIONS
from service.nearest import nearest
from service.repository.schema_batching import BatchingPart, find_batching_flaws
from service.repository.schema_defaults import Default, find_flaw
from service.repository.schema_ensemble import find_flaws, find_misplaced
from service.repository.schema_pad import find_pad_flaws
from service.repository.schema_scheduling import (
    EnsemblePart,
    GeneratePart,
    PostprocessPart,
    PreprocessPart,
    PythonPart,
    SequencePart,
)
from service.repository.schema_sequence import find_sequence_flaws
from service.repository.schema_steps import find_misfits
from service.repository.schema_tensors import Int, Part, Positive, TensorPart
from service.yaml_file import Location

MAX_BATCH_SIZE = 65_536  # a batch is one tensor in memory: far beyond what is fast, yet no typing error passes
MAX_INSTANCES = 64  # each is a copy of the weights
CHANNELS = {"RGB": 3, "L": 1}
IMAGE_DATATYPES = ("UINT8", "FP32")
DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
FACTORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(:[A-Za-z0-9][A-Za-z0-9._-]{0,127})?")  # "mlp", "timm:resnet18"
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")  # never a number, which would be a version


def _check_backend(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"'{name}' is not a backend: {nearest(name, BACKENDS)}")
    return name


def _check_precision(name: str) -> str:
    if name not in PRECISIONS:
        raise ValueError(f"'{name}' is not a precision: {nearest(name, ('auto', *PRECISIONS))}")
    return name


def _read_choice(choice: Any) -> Any:
    """`auto` leaves the choice to the device; one name is a list of one."""
    if choice == "auto":
        return None
    return [choice] if isinstance(choice, str) else choice


def _check_factory(name: str) -> str:
    if not FACTORY.fullmatch(name):
        raise ValueError(f"'{name}' is not the name of a factory: write a registered one, as mlp or timm:resnet18")
    return name


def _read_factory(factory: Any) -> Any:
    return {"name": factory} if isinstance(factory, str) else factory


def _check_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    wrong = [name for name in arguments if not name.isidentifier()]
    if wrong:
        raise ValueError(f"has '{wrong[0]}', which is not the name of an argument")
    if not _is_finite(arguments):
        raise ValueError("must hold numbers that are finite")
    return arguments


def _is_finite(value: Any) -> bool:
    """What YAML gives is JSON but for .nan and .inf, which JSON, and so the key of an artifact, cannot hold."""
    if isinstance(value, dict | list):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _check_distribution(name: str) -> str:
    if not DISTRIBUTION.fullmatch(name):
        raise ValueError(f"'{name}' is not the name of a distribution: write it as `pip list` does, without a version")
    return name


def _check_labels(labels: Any) -> Any:
    is_list = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if labels is not None and not isinstance(labels, str) and not is_list:
        raise ValueError("must be a list of text (quote numbers, yes and no) or a file in the model's folder")
    return labels


def _check_label(label: str) -> str:
    if not LABEL.fullmatch(label):
        raise ValueError(f"'{label}' is not a label: begin with a letter, then letters, digits, '.', '_' and '-'")
    return label


def _read_policy(policy: Any) -> Any:
    return {"all": True} if policy == "all" else policy


Backend = Annotated[str, AfterValidator(_check_backend)]
Precision = Annotated[str, AfterValidator(_check_precision)]
Distribution = Annotated[str, AfterValidator(_check_distribution)]
Label = Annotated[str, AfterValidator(_check_label)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class ImagePart(Part):
    fit: Literal["crop", "stretch", "pad"] = "crop"
    crop_fraction: float = Field(0.875, gt=0, le=1)
    color: Literal["RGB", "L"] = "RGB"


class InputPart(TensorPart):
    range: tuple[Finite, Finite] | None = None
    example_shape: tuple[Annotated[Int, Field(ge=1)], ...] | None = None
    image: ImagePart | None = None
    default: Default | None = None  # the input may be left out


class OutputPart(TensorPart):
    labels: Annotated[str | tuple[str, ...] | None, BeforeValidator(_check_labels)] = None


class LimitPart(Part):
    relative_l2: Positive | None = None
    max_abs: Positive | None = None


class TolerancePart(LimitPart):
    """The two limits for every precision, and by precision for those that need their own."""

    fp32: LimitPart = LimitPart()
    tf32: LimitPart = LimitPart()
    fp16: LimitPart = LimitPart()
    bf16: LimitPart = LimitPart()
    fp8: LimitPart = LimitPart()
    int8: LimitPart = LimitPart()


class CompilePart(Part):
    backends: Annotated[tuple[Backend, ...] | None, BeforeValidator(_read_choice)] = Field(None, min_length=1)
    precision: Annotated[tuple[Precision, ...] | None, BeforeValidator(_read_choice)] = Field(None, min_length=1)
    objective: Literal["latency", "throughput"] = "throughput"
    tolerance: TolerancePart = TolerancePart()
    max_accuracy_drop: float = Field(0.01, ge=0, le=1)
    sparsity: Literal["report", "prune"] = "report"
    strict: bool = False
    timeout_s: Positive | None = None


class FactoryPart(Part):
    name: Annotated[str, AfterValidator(_check_factory)]
    arguments: Annotated[dict[str, Any], AfterValidator(_check_arguments)] = Field(default_factory=dict)


class PolicyPart(Part):
    latest: Int | None = Field(None, ge=1)
    specific: tuple[Annotated[Int, Field(ge=1)], ...] | None = Field(None, min_length=1)
    all: bool = False


class ModelFile(Part):
    """The whole file."""

    description: str = ""
    max_batch_size: Int | None = Field(None, ge=0, le=MAX_BATCH_SIZE)
    inputs: tuple[InputPart, ...] | None = Field(None, min_length=1)
    outputs: tuple[OutputPart, ...] | None = Field(None, min_length=1)
    batching: BatchingPart = BatchingPart()
    compile: CompilePart = CompilePart()
    trust: Annotated[bool, Field(strict=True)] = False  # only a plain `true` opens the door
    startup: Literal["wait", "fallback"] | None = None
    factory: Annotated[FactoryPart | None, BeforeValidator(_read_factory)] = None
    requires: tuple[Distribution, ...] = ()
    instances: Int = Field(1, ge=1, le=MAX_INSTANCES)
    version_policy: Annotated[PolicyPart, BeforeValidator(_read_policy)] = PolicyPart(latest=1)
    version_labels: dict[Label, Annotated[Int, Field(ge=1)]] = Field(default_factory=dict)
    response_cache: Annotated[bool, Field(strict=True)] = False
    sequence: SequencePart | None = None
    ensemble: EnsemblePart | None = None
    preprocess: PreprocessPart | None = None
    postprocess: PostprocessPart | None = None
    generate: GeneratePart | None = None
    python: PythonPart = PythonPart()


def find_contradictions(file: ModelFile) -> Iterator[tuple[Location, str]]:
    """What is wrong between fields that are right each by itself, as (location, sentence)."""
    inputs, outputs = file.inputs or (), file.outputs or ()
    for where, parts in (("inputs", inputs), ("outputs", outputs)):
        names = [part.name for part in parts]
        for index, part in enumerate(parts):
            if part.name in names[:index]:
                yield (where, index, "name"), f"{where} has the name '{part.name}' twice: each needs its own"
            if file.max_batch_size and part.shape[:1] != (-1,):
                yield (where, index, "shape"), _no_batch(part.name, part.shape, file.max_batch_size)
            if part.datatype == "BYTES" and file.ensemble is None:
                yield (where, index, "datatype"), f"'{part.name}' is BYTES, but a program takes and gives numbers only"
    for index, part in enumerate(inputs):
        yield from ((("inputs", index, *at), sentence) for at, sentence in _input_contradictions(part, len(inputs)))
        flaw = find_flaw(part, part.default, file.max_batch_size != 0) if part.default is not None else ""
        if flaw:
            yield ("inputs", index, "default"), flaw
    yield from find_batching_flaws(file.batching, file.max_batch_size)
    yield from find_pad_flaws(
        file.batching.pad, (file.inputs, file.outputs), file.max_batch_size, file.batching.buckets
    )
    if file.batching.pad is not None and file.sequence is not None:
        yield (
            ("batching", "pad"),
            "batching.pad and sequence exclude each other: a sequence has its own rows; remove one",
        )
    yield from _ensemble_contradictions(file)
    yield from find_misfits(file.preprocess, file.postprocess, file.generate, has_state=file.sequence is not None)
    yield from find_sequence_flaws(file.sequence, file.inputs, file.outputs, file.max_batch_size)
    if file.response_cache and (file.sequence is not None or file.generate is not None):
        other = "sequence" if file.sequence is not None else "generate"
        yield (
            ("response_cache",),
            f"response_cache and {other} contradict each other, as equal inputs need not get equal answers: remove one",
        )
    if [file.version_policy.latest, file.version_policy.specific, file.version_policy.all or None].count(None) != 2:
        yield ("version_policy",), "version_policy must be one of `{latest: 2}`, `{specific: [1, 3]}` and `all`"


def _no_batch(name: str, shape: tuple[int, ...], size: int) -> str:
    return (
        f"'{name}' has shape {list(shape)}, but with max_batch_size {size} the first dimension is the batch: "
        f"write {[-1, *shape]}, or set max_batch_size: 0 if the model has none"
    )


def _input_contradictions(part: InputPart, inputs: int) -> Iterator[tuple[Location, str]]:
    if part.range is not None and part.range[0] > part.range[1]:
        yield ("range",), f"range of '{part.name}' must be [lowest, highest], not {list(part.range)}"
    example = part.example_shape
    if example is not None and not _fits(example, part.shape):
        yield (
            ("example_shape",),
            f"example_shape {list(example)} of '{part.name}' does not fit its shape {list(part.shape)}",
        )
    if part.image is None:
        return
    if inputs != 1:
        yield ("image",), f"image needs a model with one input, since an image body gives one; this has {inputs}"
    if part.datatype not in IMAGE_DATATYPES:
        yield ("image",), f"image needs UINT8 or FP32, but '{part.name}' is {part.datatype}"
    if not _is_image(part.shape, CHANNELS[part.image.color]):
        channels = CHANNELS[part.image.color]
        yield (
            ("image",),
            f"image in {part.image.color} needs the shape [-1, height, width, {channels}] or "
            f"[-1, {channels}, height, width] with fixed sizes, but '{part.name}' has {list(part.shape)}",
        )


def _fits(example: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """With or without the batch dimension."""
    return any(
        len(example) == len(sizes) and all(size in (-1, given) for size, given in zip(sizes, example, strict=True))
        for sizes in (shape, shape[1:] if shape[:1] == (-1,) else shape)
    )


def _is_image(shape: tuple[int, ...], channels: int) -> bool:
    if len(shape) != 4 or shape[0] != -1 or -1 in shape[1:]:
        return False
    return (shape[3] if shape[3] in CHANNELS.values() else shape[1]) == channels


def _ensemble_contradictions(file: ModelFile) -> Iterator[tuple[Location, str]]:
    if file.ensemble is None:
        return
    yield from find_misplaced(file, file.batching)
    declared = [[part.name for part in parts] if parts is not None else None for parts in (file.inputs, file.outputs)]
    yield from find_flaws(file.ensemble.steps, *declared)
