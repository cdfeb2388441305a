"""What may stand in model.yaml about sequences, ensembles and steps in Python, as pydantic models.

Knows nothing of files. `schema.py` has the rest of the file, `scheduling.py` the frozen values that are made of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from compiler.spec import TensorSpec
from service.repository.scheduling import (
    Controls,
    Ensemble,
    EnsembleStep,
    Generation,
    Sequencing,
    State,
    Steps,
)
from service.repository.schema_tensors import Int, Name, Part, Positive, TensorPart

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
MAX_SEQUENCES = 65_536
MAX_STEPS = 64
MAX_PROCESSES = 64


class StatePart(Part):
    input: Name
    output: Name


class ControlsPart(Part):
    start: Name | None = None
    end: Name | None = None
    ready: Name | None = None
    id: Name | None = None


class SequencePart(Part):
    strategy: Literal["oldest", "direct"] = "oldest"
    max_sequences: Int = Field(128, ge=1, le=MAX_SEQUENCES)
    idle_timeout_s: Positive = 60.0
    state: tuple[StatePart, ...] = ()
    controls: ControlsPart = ControlsPart()


class EnsembleStepPart(Part):
    model: ModelName
    version: Annotated[Int, Field(ge=1)] | None = None
    inputs: dict[Name, Name] = Field(min_length=1)
    outputs: dict[Name, Name] = Field(min_length=1)


class EnsemblePart(Part):
    steps: tuple[EnsembleStepPart, ...] = Field(min_length=1, max_length=MAX_STEPS)


class PreprocessPart(Part):
    inputs: tuple[TensorPart, ...] = Field(min_length=1)


class PostprocessPart(Part):
    outputs: tuple[TensorPart, ...] = Field(min_length=1)


class GeneratePart(Part):
    inputs: tuple[TensorPart, ...] = Field(min_length=1)
    outputs: tuple[TensorPart, ...] = Field(min_length=1)


class PythonPart(Part):
    """How the processes run that preprocess.py, postprocess.py and generate.py need."""

    processes: Int = Field(1, ge=1, le=MAX_PROCESSES)
    timeout_s: Positive = 30.0


def freeze_sequencing(part: SequencePart | None) -> Sequencing | None:
    if part is None:
        return None
    controls = part.controls
    return Sequencing(
        part.strategy,
        part.max_sequences,
        part.idle_timeout_s,
        tuple(State(each.input, each.output) for each in part.state),
        Controls(controls.start or "", controls.end or "", controls.ready or "", controls.id or ""),
    )


def freeze_ensemble(part: EnsemblePart | None, order: Sequence[int]) -> Ensemble | None:
    """`order` names the steps by number, so that each finds its inputs made by those before it."""
    if part is None:
        return None
    return Ensemble(
        tuple(
            EnsembleStep(step.model, step.inputs, step.outputs, str(step.version) if step.version else "")
            for step in (part.steps[number] for number in order)
        )
    )


def freeze_steps(
    before: PreprocessPart | None, after: PostprocessPart | None, generate: GeneratePart | None, python: PythonPart
) -> Steps | None:
    if before is None and after is None and generate is None:
        return None
    return Steps(
        _specs(before.inputs) if before is not None else None,
        _specs(after.outputs) if after is not None else None,
        Generation(_specs(generate.inputs), _specs(generate.outputs)) if generate is not None else None,
        python.processes,
        python.timeout_s,
    )


def _specs(parts: tuple[TensorPart, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(part.name, part.datatype, part.shape) for part in parts)
