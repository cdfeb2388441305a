"""The way of a request through an ensemble: which steps can run, given what has arrived, and what came of it.

Pure: no clock, no threads, no queues. `ensemble.py` sends each step's tensors to its model and tells what arrives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec import structs

from compiler.spec import TensorSpec
from service.checks import check_inputs
from service.defaults import fill_inputs
from service.errors import InvalidInput
from service.repository.catalog import Entry
from service.repository.scheduling import EnsembleStep
from service.tensors import Tensor

Phases = tuple[int, int, int, int, int]
NOTHING: Phases = (0, 0, 0, 0, 0)


class Plan:
    """What all requests of an ensemble have in common."""

    def __init__(self, entry: Entry) -> None:
        assert entry.ensemble is not None, "a plan is made of an ensemble's steps"
        self.inputs = entry.inputs
        self.outputs = entry.outputs
        self.steps = entry.ensemble.steps
        self.uses = Counter(tensor for step in self.steps for tensor in set(step.inputs.values()))
        self.uses.update(spec.name for spec in entry.outputs)


@dataclass(frozen=True, slots=True)
class Call:
    """One step that can run, with its tensors as its model names them. `phases` are those of the way to here."""

    number: int
    step: EnsembleStep
    tensors: tuple[Tensor, ...]
    phases: Phases


class Flow:
    """One request. A tensor is let go of when the last step that takes it has been given it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._waiting = set(range(len(plan.steps)))
        self._there: dict[str, Tensor] = {}
        self._uses = Counter(plan.uses)

    @property
    def is_done(self) -> bool:
        """Whether all outputs have arrived."""
        return all(spec.name in self._there for spec in self._plan.outputs)

    def begin(self, shapes: Sequence[tuple[int, ...]], blobs: Sequence[memoryview]) -> list[Call]:
        """The request's own tensors are there, in the order of the ensemble's inputs: the steps that can run."""
        inputs = zip(self._plan.inputs, shapes, blobs, strict=True)
        return self._put([Tensor(spec.name, spec.datatype, shape, blob) for spec, shape, blob in inputs], NOTHING)

    def arrived(self, call: Call, tensors: Iterable[Tensor], phases: Phases) -> list[Call]:
        """A step's model has answered with `tensors`, by its own names: the steps that can run now."""
        names = call.step.outputs
        put = [structs.replace(tensor, name=names[tensor.name]) for tensor in tensors if tensor.name in names]
        return self._put(put, add(call.phases, phases))

    def outputs(self) -> list[Tensor]:
        """The answer, in the order of the ensemble's outputs. Call when done."""
        return [self._there[spec.name] for spec in self._plan.outputs]

    def _put(self, tensors: list[Tensor], phases: Phases) -> list[Call]:
        self._there.update((tensor.name, tensor) for tensor in tensors if self._uses[tensor.name])
        able = [
            number
            for number in sorted(self._waiting)
            if all(tensor in self._there for tensor in self._plan.steps[number].inputs.values())
        ]
        self._waiting.difference_update(able)
        return [self._take(number, phases) for number in able]

    def _take(self, number: int, phases: Phases) -> Call:
        """A step runs when the last of its inputs arrives, so that one's way is the longest, and the step's own."""
        step = self._plan.steps[number]
        taken = tuple(structs.replace(self._there[tensor], name=own) for own, tensor in step.inputs.items())
        for tensor in set(step.inputs.values()):
            self._uses[tensor] -= 1
            if not self._uses[tensor]:
                del self._there[tensor]
        return Call(number, step, taken, phases)


def add(one: Phases, other: Phases) -> Phases:
    return (one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3], one[4] + other[4])


def arrange(tensors: Sequence[Tensor], entry: Entry) -> tuple[list[Tensor], int]:
    """The tensors in the order of a model's inputs, and their rows. Raises InvalidInput where they do not fit it.

    What one model makes fits the next by what both declare, but for sizes that vary.
    """
    if len(tensors) < len(entry.inputs) and entry.optional:
        tensors = fill_inputs(tuple(tensors), entry, tensors[0].shape[0] if tensors[0].shape else 1)
    by_name = {tensor.name: tensor for tensor in tensors}
    ordered = [by_name[spec.name] for spec in entry.inputs if spec.name in by_name]
    if len(ordered) != len(entry.inputs) or len(ordered) != len(tensors) or not all(map(_fits, ordered, entry.inputs)):
        check_inputs(tuple(tensors), entry)  # says what is wrong
        raise InvalidInput(f"model '{entry.name}' takes other inputs by now")
    rows = {tensor.shape[0] for tensor in ordered} if entry.max_batch_size else {1}
    if len(rows) > 1 or not 1 <= max(rows) <= (entry.max_batch_size or 1):
        check_inputs(tuple(tensors), entry)
    return ordered, max(rows)


def _fits(tensor: Tensor, spec: TensorSpec) -> bool:
    sizes = zip(tensor.shape, spec.shape, strict=False)
    return (
        tensor.datatype == spec.datatype
        and len(tensor.shape) == len(spec.shape)
        and all(want in (-1, size) for size, want in sizes)
    )


def find_shortfall(entry: Entry, step: EnsembleStep) -> str:
    """The output that a step needs and its model does not give; "" where it gives all."""
    given = {spec.name for spec in entry.outputs}
    return next((own for own in step.outputs if own not in given), "")
