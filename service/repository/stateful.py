"""Which tensors of a model with state its clients see, which the server fills and keeps, and whether these fit.

Pure. `schema.py` asks for what model.yaml declares, `describe.py` and the engine for what the artifact says.
"""

from __future__ import annotations

from collections.abc import Iterator

from compiler.spec import TensorSpec
from service.repository.scheduling import Sequencing

FLAGS = ("BOOL", "INT8", "INT32", "INT64", "FP32")
NUMBERS = ("INT32", "UINT32", "INT64", "UINT64")

Specs = tuple[TensorSpec, ...]


def visible_inputs(sequencing: Sequencing, inputs: Specs) -> Specs:
    """The inputs that clients send."""
    own = {state.input for state in sequencing.state} | {name for _, name in named_controls(sequencing)}
    return tuple(spec for spec in inputs if spec.name not in own)


def visible_outputs(sequencing: Sequencing, outputs: Specs) -> Specs:
    """The outputs that clients get."""
    own = {state.output for state in sequencing.state}
    return tuple(spec for spec in outputs if spec.name not in own)


def hidden_inputs(sequencing: Sequencing, inputs: Specs) -> Specs:
    """The inputs that the server fills."""
    seen = visible_inputs(sequencing, inputs)
    return tuple(spec for spec in inputs if spec not in seen)


def named_controls(sequencing: Sequencing) -> Iterator[tuple[str, str]]:
    """`("start", "START")`: the controls that the model takes, and their inputs."""
    for kind in ("start", "end", "ready", "id"):
        name: str = getattr(sequencing.controls, kind)
        if name:
            yield kind, name


def find_faults(
    sequencing: Sequencing, inputs: Specs | None, outputs: Specs | None, max_batch_size: int | None
) -> Iterator[str]:
    """What does not fit, in sentences. None: not known yet, and not looked at."""
    used = [state.input for state in sequencing.state] + [name for _, name in named_controls(sequencing)]
    yield from _twice(used, "input")
    yield from _twice([state.output for state in sequencing.state], "output")
    by_input = {spec.name: spec for spec in inputs or ()}
    by_output = {spec.name: spec for spec in outputs or ()}
    for where, names, known in (
        ("inputs", used, by_input),
        ("outputs", [state.output for state in sequencing.state], by_output),
    ):
        unknown = [name for name in names if known and name not in known]
        for name in unknown:
            yield f"sequence names '{name}', which is none of the model's {where}: they are {', '.join(known)}"
    if inputs is not None and not set(by_input) - set(used):
        yield "sequence takes every input of the model: at least one must be left for clients to send"
    if outputs is not None and not set(by_output) - {state.output for state in sequencing.state}:
        yield "sequence takes every output of the model: at least one must be left for clients to get"
    for state in sequencing.state:
        yield from _state_faults(by_input.get(state.input), by_output.get(state.output), max_batch_size)
    for kind, name in named_controls(sequencing):
        if name in by_input:
            yield from _control_faults(kind, by_input[name], max_batch_size)


def row_shape(spec: TensorSpec, max_batch_size: int | None) -> tuple[int, ...]:
    """Without the batch dimension, where there is one."""
    has_batch = bool(max_batch_size) or (max_batch_size is None and spec.shape[:1] == (-1,))
    return spec.shape[1:] if has_batch else spec.shape


def _twice(names: list[str], what: str) -> Iterator[str]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"sequence names the {what} '{name}' twice: each serves one purpose"


def _state_faults(one: TensorSpec | None, other: TensorSpec | None, max_batch_size: int | None) -> Iterator[str]:
    for spec in (one, other):
        if spec is not None and -1 in row_shape(spec, max_batch_size):
            yield (
                f"the state '{spec.name}' has the shape {list(spec.shape)}: all its sizes but the batch must be fixed, "
                "and the batch comes first"
            )
    if one is None or other is None:
        return
    if one.datatype != other.datatype:
        yield f"the state goes out of '{other.name}' as {other.datatype}, but '{one.name}' takes {one.datatype}"
    if row_shape(one, max_batch_size) != row_shape(other, max_batch_size):
        yield (
            f"the state goes out of '{other.name}' with the shape {list(other.shape)}, but '{one.name}' takes "
            f"{list(one.shape)}: they must agree"
        )


def _control_faults(kind: str, spec: TensorSpec, max_batch_size: int | None) -> Iterator[str]:
    allowed = NUMBERS if kind == "id" else FLAGS
    if spec.datatype not in allowed:
        yield f"the control {kind} '{spec.name}' is {spec.datatype}: it must be one of {', '.join(allowed)}"
    if any(size != 1 for size in row_shape(spec, max_batch_size)):
        shapes = "[-1] or [-1, 1]" if spec.shape[:1] == (-1,) else "[1]"
        yield f"the control {kind} '{spec.name}' has the shape {list(spec.shape)}: it is one value a row, so {shapes}"
