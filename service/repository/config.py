"""Reads model.yaml: from a file that people wrote to one frozen value, or an error that names the line.

Knows nothing of torch, of versions' files or of serving. `schema.py` says what may stand in the file, `storage.py`
reads one for each model of a repository.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from compiler.spec import BACKENDS, PRECISIONS, TOLERANCES, Factory, TensorSpec, Tolerance
from service.repository.model_config import Batching, ImageInput, ModelConfig
from service.repository.overrides import merge
from service.repository.schema import (
    FactoryPart,
    LimitPart,
    ModelFile,
    OutputPart,
    PolicyPart,
    TolerancePart,
    find_contradictions,
)
from service.repository.schema_ensemble import find_self, sort_steps
from service.repository.schema_pad import freeze_pad
from service.repository.schema_scheduling import freeze_ensemble, freeze_sequencing, freeze_steps
from service.repository.versions import Every, Latest, Specific, VersionPolicy, choose_versions
from service.validation import find_faults
from service.yaml_file import Document, Location, YamlFault, read_document

CONFIG_NAME = "model.yaml"
PROGRAM_NAME = "model.pt2"
MAX_LABEL_BYTES = 8 * 1024 * 1024  # 100,000 labels are 3 MB, and each frontend holds them


class ConfigError(Exception):
    """A model.yaml that cannot be used. Each fault reads `models/x/model.yaml:LINE: what, and the remedy`."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def read_config(folder: Path, override: Mapping[str, Any] | None = None) -> ModelConfig:
    """The configuration of the model in `folder`, named like it. Raises ConfigError with every fault, or OSError.

    Without model.yaml a model that is a model.pt2 describes itself; any other needs the file. `override` holds keys of
    the file that take the place of what stands there.
    """
    path = folder / CONFIG_NAME
    if not path.is_file() and not override:
        if _describes_itself(folder):
            return ModelConfig(folder.name)
        raise ConfigError(
            f"{path} is missing: write one that declares the model's inputs (only a {PROGRAM_NAME} does without)"
        )
    try:
        document = read_document(path) if path.is_file() else Document({}, {})
    except YamlFault as fault:
        raise ConfigError(f"{path}:{fault.line}: {fault}") from fault
    try:
        file = ModelFile.model_validate(merge(document.values, override or {}))
    except ValidationError as error:
        raise _config_error(path, document, find_faults(error, ModelFile)) from error
    labels, faults = _read_labels(folder, file.outputs or ())
    faults = [*find_contradictions(file), *find_self(folder.name, file.ensemble), *faults]
    if faults:
        raise _config_error(path, document, faults)
    return _freeze(folder.name, file, labels)


def _describes_itself(folder: Path) -> bool:
    served = choose_versions(Latest(), [path.name for path in folder.iterdir()])
    return any((folder / version / PROGRAM_NAME).is_file() for version in served)


def _config_error(path: Path, document: Document, faults: list[tuple[Location, str]]) -> ConfigError:
    placed = sorted((document.line_of(location), sentence) for location, sentence in faults)
    return ConfigError(*(f"{path}:{line}: {sentence}" for line, sentence in placed))


def _read_labels(
    folder: Path, outputs: tuple[OutputPart, ...]
) -> tuple[dict[str, tuple[str, ...]], list[tuple[Location, str]]]:
    """The labels by output, and what is wrong with them."""
    labels: dict[str, tuple[str, ...]] = {}
    faults: list[tuple[Location, str]] = []
    for index, output in enumerate(outputs):
        if output.labels is None:
            continue
        try:
            found = _label_file(folder, output.labels) if isinstance(output.labels, str) else output.labels
            labels[output.name] = _check_count(found, output)
        except ValueError as error:
            faults.append((("outputs", index, "labels"), f"labels of '{output.name}': {error}"))
    return labels, faults


def _label_file(folder: Path, name: str) -> tuple[str, ...]:
    """One label a line. Raises ValueError where the file cannot be read or lies outside the model's folder."""
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise ValueError(f"the file '{name}' is outside the model's folder: put it inside")
    try:
        if path.stat().st_size > MAX_LABEL_BYTES:
            raise ValueError(f"the file '{name}' is larger than {MAX_LABEL_BYTES} bytes: is it the right one?")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"the file '{name}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the file '{name}' is not UTF-8: save it as UTF-8") from error
    return tuple(line.strip() for line in lines)


def _check_count(labels: tuple[str, ...], output: OutputPart) -> tuple[str, ...]:
    classes = output.shape[-1] if output.shape else 1
    if classes not in (-1, len(labels)):
        raise ValueError(
            f"there are {len(labels)}, but the last dimension of its shape {list(output.shape)} is {classes}"
        )
    return labels


def _freeze(name: str, file: ModelFile, labels: dict[str, tuple[str, ...]]) -> ModelConfig:
    inputs = tuple(TensorSpec(p.name, p.datatype, p.shape, p.range, p.example_shape) for p in file.inputs or ())
    outputs = tuple(TensorSpec(p.name, p.datatype, p.shape) for p in file.outputs or ())
    batching = file.batching.model_dump(exclude={"buckets", "pad"}, exclude_none=True)
    return ModelConfig(
        name=name,
        description=file.description,
        max_batch_size=file.max_batch_size,
        inputs=inputs or None,
        outputs=outputs or None,
        labels=labels,
        images=tuple(
            ImageInput(part.name, part.image.fit, part.image.crop_fraction, part.image.color)
            for part in file.inputs or ()
            if part.image is not None
        ),
        batching=Batching(**batching, pad=freeze_pad(file.batching.pad)),
        buckets=file.batching.buckets,
        backends=_ordered(file.compile.backends, BACKENDS),
        precisions=_ordered(file.compile.precision, PRECISIONS),
        objective=file.compile.objective,
        tolerances=_tolerances(file.compile.tolerance),
        max_accuracy_drop=file.compile.max_accuracy_drop,
        sparsity=file.compile.sparsity,
        strict=file.compile.strict,
        timeout_s=file.compile.timeout_s,
        trust=file.trust,
        startup=file.startup,
        factory=_factory(file.factory),
        requires=file.requires,
        instances=file.instances,
        version_policy=_policy(file.version_policy),
        version_labels={label: str(version) for label, version in file.version_labels.items()},
        response_cache=file.response_cache,
        defaults={part.name: part.default for part in file.inputs or () if part.default is not None},
        sequencing=freeze_sequencing(file.sequence),
        ensemble=freeze_ensemble(file.ensemble, sort_steps(file.ensemble.steps)[0] if file.ensemble else ()),
        steps=freeze_steps(file.preprocess, file.postprocess, file.generate, file.python),
    )


def _ordered(chosen: tuple[str, ...] | None, known: tuple[str, ...]) -> tuple[str, ...] | None:
    """In the order of the ladder, each once: another order in the file is not another artifact."""
    return None if chosen is None else tuple(name for name in known if name in chosen)


def _tolerances(part: TolerancePart) -> dict[str, Tolerance]:
    """By precision, those that differ from the default: its own limit, else the one for every precision."""
    found = {}
    for precision, default in TOLERANCES.items():
        own: LimitPart = getattr(part, precision)
        limits = Tolerance(
            own.relative_l2 or part.relative_l2 or default.relative_l2, own.max_abs or part.max_abs or default.max_abs
        )
        if limits != default:
            found[precision] = limits
    return found


def _factory(part: FactoryPart | None) -> Factory | None:
    if part is None:
        return None
    return Factory(part.name, msgspec.json.encode(part.arguments, order="deterministic").decode())


def _policy(part: PolicyPart) -> VersionPolicy:
    if part.latest is not None:
        return Latest(part.latest)
    if part.specific is not None:
        return Specific(tuple(str(version) for version in sorted(set(part.specific))))
    return Every()
