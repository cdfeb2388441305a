"""What is wrong with an ensemble as it stands in model.yaml, and the order in which its steps find their inputs.

Pure: knows the steps and the names of declared tensors, not the models that are called; those `service/ensembles.py`
compares as they are loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from pydantic import BaseModel

from service.nearest import nearest
from service.repository.schema_scheduling import EnsemblePart, EnsembleStepPart
from service.yaml_file import Location

# What says how a program is compiled, run or wrapped; an ensemble has none.
NOT_BESIDE = (
    *("compile", "trust", "startup", "factory", "requires", "instances"),
    *("sequence", "preprocess", "postprocess", "generate", "python"),
)
NOT_IN_BATCHING = (
    *("max_queue_delay_us", "batch_timeout_s", "buckets", "pad"),
    *("timeout_action", "preferred_batch_sizes", "preserve_ordering"),
)
Fault = tuple[Location, str]


def find_misplaced(file: BaseModel, batching: BaseModel) -> Iterator[Fault]:
    """Keys that have no meaning beside `ensemble`."""
    for key in _said(file, NOT_BESIDE):
        yield (key,), f"{key} has no meaning beside ensemble, which has no program of its own: say it of the models"
    for key in _said(batching, NOT_IN_BATCHING):
        yield (
            ("batching", key),
            f"batching.{key} has no meaning for an ensemble, whose models batch each by itself: say it of the models",
        )


def find_flaws(
    steps: Sequence[EnsembleStepPart], inputs: Collection[str] | None, outputs: Collection[str] | None
) -> Iterator[Fault]:
    """What is wrong with the way of the tensors; `inputs` and `outputs` are the declared ones, None: derived."""
    makers: dict[str, int] = {}
    for number, step in enumerate(steps):
        for own, tensor in step.outputs.items():
            where = ("ensemble", "steps", number, "outputs", own)
            if tensor in makers:
                yield where, f"'{tensor}' is made by step {makers[tensor]} and by step {number}: give one another name"
            elif tensor in (inputs or ()):
                yield where, f"'{tensor}' is an input of the ensemble and made by step {number}: give one another name"
            makers.setdefault(tensor, number)
    taken = {tensor for step in steps for tensor in step.inputs.values()}
    yield from _unknown_inputs(steps, makers, inputs)
    for index, name in enumerate(inputs or ()):
        if name not in taken and name not in makers:
            yield ("inputs", index), f"input '{name}' is taken by no step: let one take it, or leave it out"
    for index, name in enumerate(outputs or ()):
        if name not in makers:
            hint = nearest(name, sorted(makers))
            yield ("outputs", index), f"output '{name}' is made by no step: {hint}"
    if outputs is not None:
        for tensor, number in makers.items():
            if tensor not in taken and tensor not in outputs:
                yield (
                    ("ensemble", "steps", number, "outputs"),
                    f"'{tensor}' of step {number} is taken by no step and is no output: leave it out, or declare it",
                )
    yield from _circles(steps)


def sort_steps(steps: Sequence[EnsembleStepPart]) -> tuple[list[int], list[int]]:
    """The numbers of the steps in an order in which each finds its inputs, and of those that never find them."""
    made = {tensor for step in steps for tensor in step.outputs.values()}
    order: list[int] = []
    left = list(range(len(steps)))
    there: set[str] = set()
    while left:
        able = [number for number in left if all(t in there or t not in made for t in steps[number].inputs.values())]
        if not able:
            break
        order.append(able[0])
        left.remove(able[0])
        there.update(steps[able[0]].outputs.values())
    return order, left


def find_self(name: str, ensemble: EnsemblePart | None) -> Iterator[Fault]:
    """Steps of the ensemble `name` that call it again."""
    for number, step in enumerate(ensemble.steps if ensemble is not None else ()):
        if step.model == name:
            yield ("ensemble", "steps", number, "model"), f"step {number} calls '{name}', the ensemble itself"


def _said(part: BaseModel, keys: Collection[str]) -> Iterator[str]:
    fields = type(part).model_fields
    for key in keys:
        if key in part.model_fields_set and getattr(part, key) != fields[key].get_default(call_default_factory=True):
            yield key


def _unknown_inputs(
    steps: Sequence[EnsembleStepPart], makers: dict[str, int], inputs: Collection[str] | None
) -> Iterator[Fault]:
    if inputs is None:
        return
    known = sorted({*inputs, *makers})
    for number, step in enumerate(steps):
        for own, tensor in step.inputs.items():
            if tensor not in known:
                yield (
                    ("ensemble", "steps", number, "inputs", own),
                    f"'{tensor}' is no input of the ensemble and made by no step: {nearest(tensor, known)}",
                )


def _circles(steps: Sequence[EnsembleStepPart]) -> Iterator[Fault]:
    _, left = sort_steps(steps)
    if left:
        names = ", ".join(f"{number} ({steps[number].model})" for number in left)
        yield (
            ("ensemble", "steps", left[0]),
            f"steps {names} wait for each other: each needs what only a later one makes",
        )
