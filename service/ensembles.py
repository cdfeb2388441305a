"""Ensembles as their models allow: what clients see of one, whether it can serve now, and why not.

Pure: `deployment.py` asks after each change of the catalog, and acts. What contradicts itself in `model.yaml` was found
by `repository/schema_ensemble.py`; `engine/ensemble.py` runs the steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from msgspec import structs

from compiler.spec import TensorSpec
from service.describe import entry_of
from service.repository.catalog import Catalog, Entry, State
from service.repository.model_config import ImageInput, ModelConfig
from service.repository.scheduling import EnsembleStep
from service.tensors import describe, shape_text

Key = tuple[str, str]  # name, version
BACKEND = "ensemble"
ORIGIN = "its models"
MAX_DEPTH = 8  # of ensembles in ensembles; each costs a little on the way, and nobody reads deeper


class Unfit(Exception):
    """The models as they are do not make this ensemble; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of an ensemble. `entry` is what to serve, None where its models do not allow any.

    `artifacts` stands for all that its answers depend on.
    """

    key: Key
    entry: Entry | None
    state: State
    reason: str = ""
    artifacts: int = 0

    def hold(self, entry: Entry) -> Entry:
        """The ensemble's entry as clients may see it: READY only while its models are."""
        entry = structs.replace(entry, artifact=_digest((entry.artifact, self.artifacts)))
        if self.state is State.READY or entry.state is State.UNLOADING:
            return entry
        is_resuming = self.state is State.LOADING and (entry.is_ready or entry.is_resuming)
        return structs.replace(entry, state=self.state, reason=self.reason, is_resuming=is_resuming)


class Ensembles:
    """All that were found, as their owners describe them."""

    def __init__(self) -> None:
        self._found: dict[Key, tuple[ModelConfig, str]] = {}

    def __repr__(self) -> str:
        return f"<Ensembles {sorted(self._found)}>"

    def __contains__(self, key: Key) -> bool:
        return key in self._found

    def put(self, config: ModelConfig, version: str) -> None:
        self._found[config.name, version] = config, version

    def drop(self, key: Key) -> None:
        self._found.pop(key, None)

    def judge_all(self, catalog: Catalog) -> Iterator[Verdict]:
        """A verdict on each, those first that others call: let the catalog have it before the next is asked for."""
        for config, version in sorted(self._found.values(), key=lambda each: self._depth(each[0])):
            yield self.judge(config, version, catalog)

    def judge(self, config: ModelConfig, version: str, catalog: Catalog) -> Verdict:
        """What is to be said of an ensemble with this configuration, as its models are now."""
        key = config.name, version
        if self._depth(config) > MAX_DEPTH:
            reason = f"it calls itself, or ensembles are nested more than {MAX_DEPTH} deep"
            return Verdict(key, None, State.UNAVAILABLE, reason)
        try:
            steps = _with_models(config, catalog)
            state, reason = _readiness(steps)
            if state is not State.READY:
                return Verdict(key, None, state, reason)
            artifacts = _digest(tuple(model.artifact for _, model in steps))
            return Verdict(key, compose(config, version, steps), State.READY, "", artifacts)
        except Unfit as unfit:
            return Verdict(key, None, State.UNAVAILABLE, str(unfit))

    def _depth(self, config: ModelConfig) -> int:
        """How deep ensembles are nested in this one, itself being 1, as far as it matters."""
        depth, level = 1, _models_of(config)
        while depth <= MAX_DEPTH:
            inner = [other for other, _ in self._found.values() if other.name in level]
            if not inner:
                break
            depth, level = depth + 1, set().union(*map(_models_of, inner))
        return depth


def _models_of(config: ModelConfig) -> set[str]:
    assert config.ensemble is not None, "asked of ensembles only"
    return {step.model for step in config.ensemble.steps}


def called_only_by(name: str, catalog: Catalog, keep: Collection[str]) -> list[str]:
    """The models that an ensemble calls, also by way of others, and that nobody else needs: not those to `keep`.

    Those that call others come first.
    """
    found: list[str] = []
    left = sorted(_called([name], catalog) - {*keep, name})
    while left:
        # What is still called by one that stays, stays; each round may free what only those before called.
        staying = {entry.name for entry in catalog.entries()} - {name, *found}
        free = [each for each in left if each not in _called(staying - {each}, catalog, leaving={name, *found})]
        if not free:
            break
        found += free
        left = [each for each in left if each not in free]
    return found


def _called(names: Collection[str], catalog: Catalog, leaving: Collection[str] = ()) -> set[str]:
    """What these call, also by way of others that are not `leaving`."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        for entry in catalog.versions(name) if catalog.has(name) and name not in leaving else ():
            for step in entry.ensemble.steps if entry.ensemble is not None else ():
                if step.model not in found:
                    found.add(step.model)
                    left.append(step.model)
    return found


Step = tuple[EnsembleStep, Entry]


def compose(config: ModelConfig, version: str, steps: Sequence[Step]) -> Entry:
    """The entry of an ensemble over these models, which are all ready. Raises Unfit."""
    declared = {spec.name: spec for spec in config.inputs or ()}
    inputs: dict[str, TensorSpec] = {}
    made: dict[str, TensorSpec] = {}
    for step, model in steps:
        _check_names(step, model)
        for spec in (spec for spec in model.inputs if spec.name in step.inputs):
            tensor = step.inputs[spec.name]
            if tensor in made:
                _meet(tensor, made[tensor], spec, f"as it is made, but '{step.model}' takes")
            elif tensor in inputs:
                inputs[tensor] = _meet(tensor, inputs[tensor], spec, f"so far, but '{step.model}' takes")
            elif tensor in declared:
                inputs[tensor] = _meet(tensor, declared[tensor], spec, f"as declared, but '{step.model}' takes")
            else:
                inputs[tensor] = structs.replace(spec, name=tensor)
        made.update(
            (step.outputs[spec.name], structs.replace(spec, name=step.outputs[spec.name]))
            for spec in model.outputs
            if spec.name in step.outputs
        )
    batch = _batch_size(config, steps)
    outputs = _outputs(config, steps, made)
    ordered = tuple(inputs[name] for name in declared or inputs)
    for spec in (*ordered, *outputs) if batch else ():
        if spec.shape[:1] != (-1,):
            raise Unfit(
                f"'{spec.name}' has shape {shape_text(spec.shape)}, but the ensemble batches: its first dimension is -1"
            )
    return structs.replace(
        entry_of(config, version, State.LOADING, "the engine is loading it"),
        inputs=ordered,
        outputs=outputs,
        max_batch_size=batch,
        labels={**_labels(steps, outputs), **config.labels},
        images=config.images or _images(steps, ordered),
        defaults={**_defaults(steps, inputs), **config.defaults},
        sequencing=next((model.sequencing for _, model in steps if model.sequencing is not None), None),
        backend=BACKEND,
        device=steps[0][1].device,
        origin=ORIGIN,
    )


def _with_models(config: ModelConfig, catalog: Catalog) -> list[Step]:
    """Each step with the version that it calls. Raises Unfit where there is none."""
    assert config.ensemble is not None, "only ensembles are composed"
    found = []
    for step in config.ensemble.steps:
        if not catalog.has(step.model):
            raise Unfit(f"it calls model '{step.model}', which is not served here: add it to what is")
        if not catalog.has(step.model, step.version):
            known = ", ".join(entry.version for entry in catalog.versions(step.model))
            raise Unfit(f"it calls version {step.version} of model '{step.model}', whose versions here are {known}")
        model = catalog.entry(step.model, step.version)
        if model.is_decoupled:
            raise Unfit(f"it calls model '{step.model}', which answers in several responses: a step has one")
        found.append((step, model))
    return found


def _readiness(steps: Sequence[Step]) -> tuple[State, str]:
    """READY where all models are; else the state and the reason of the one that will take longest."""
    waiting = [model for _, model in steps if not model.is_ready]
    lost = [model for model in waiting if model.state is not State.LOADING]
    for model in (*lost, *waiting):
        reason = f"its model '{model.name}' version {model.version} is {model.state.lower()}"
        return (State.UNAVAILABLE if lost else State.LOADING), f"{reason}: {model.reason}"
    return State.READY, ""


def _check_names(step: EnsembleStep, model: Entry) -> None:
    for what, said, specs in (("input", step.inputs, model.inputs), ("output", step.outputs, model.outputs)):
        known = [spec.name for spec in specs]
        unknown = next((own for own in said if own not in known), "")
        if unknown:
            raise Unfit(f"model '{step.model}' has no {what} '{unknown}': its {what}s are {', '.join(known)}")
    filled = {*step.inputs, *model.optional}
    missing = next((spec.name for spec in model.inputs if spec.name not in filled), "")
    if missing:
        raise Unfit(f"nothing is given to the input '{missing}' of model '{step.model}': add it to the step's inputs")


def _meet(tensor: str, one: TensorSpec, other: TensorSpec, between: str) -> TensorSpec:
    """What fits both. Raises Unfit where nothing does."""
    fits = one.datatype == other.datatype and len(one.shape) == len(other.shape)
    if not fits or any(a != b and -1 not in (a, b) for a, b in zip(one.shape, other.shape, strict=True)):
        raise Unfit(f"'{tensor}' is {describe(one)} {between} {describe(other)}")
    shape = tuple(max(a, b) for a, b in zip(one.shape, other.shape, strict=True))
    return TensorSpec(tensor, one.datatype, shape, one.range or other.range, one.example_shape or other.example_shape)


def _batch_size(config: ModelConfig, steps: Sequence[Step]) -> int:
    """As many rows as every model takes, unless fewer are declared. Raises Unfit."""
    least, model = min((model.max_batch_size, model.name) for _, model in steps)
    if config.max_batch_size is None:
        return least
    if config.max_batch_size > least:
        raise Unfit(f"max_batch_size is {config.max_batch_size}, but that of its model '{model}' is {least}: lower it")
    return config.max_batch_size


def _outputs(config: ModelConfig, steps: Sequence[Step], made: dict[str, TensorSpec]) -> tuple[TensorSpec, ...]:
    """As declared, or what is made and taken by no step."""
    if config.outputs is not None:
        return tuple(
            structs.replace(_meet(spec.name, spec, made[spec.name], "as declared, but made as"), name=spec.name)
            for spec in config.outputs
        )
    taken = {tensor for step, _ in steps for tensor in step.inputs.values()}
    return tuple(spec for name, spec in made.items() if name not in taken)


def _labels(steps: Sequence[Step], outputs: Sequence[TensorSpec]) -> dict[str, tuple[str, ...]]:
    """Of the models whose outputs are the ensemble's."""
    names = {spec.name for spec in outputs}
    return {
        tensor: model.labels[own]
        for step, model in steps
        for own, tensor in step.outputs.items()
        if own in model.labels and tensor in names
    }


def _defaults(steps: Sequence[Step], inputs: Collection[str]) -> dict[str, bool | int | float | str]:
    """An input may be left out where every model that takes it may do without, and with the same value."""
    values: dict[str, set[bool | int | float | str | None]] = {name: set() for name in inputs}
    for step, model in steps:
        for own, tensor in step.inputs.items():
            if tensor in values:
                values[tensor].add(model.defaults.get(own))
    return {name: value for name, (value, *more) in values.items() if value is not None and not more}


def _images(steps: Sequence[Step], inputs: Sequence[TensorSpec]) -> tuple[ImageInput, ...]:
    """An ensemble takes a picture where its one input is a model's that does."""
    if len(inputs) != 1:
        return ()
    pictures = [
        structs.replace(image, input=step.inputs[image.input])
        for step, model in steps
        for image in model.images
        if step.inputs[image.input] == inputs[0].name
    ]
    return tuple(pictures[:1])


def _digest(numbers: tuple[int, ...]) -> int:
    """A number that differs where these do, and fits a message."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest())
