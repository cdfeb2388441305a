"""The parameter maps of a request, its inputs and outputs: which mean something here, which are refused.

Pure. Custom parameters are let pass: no model takes any yet. `codec.py` asks.
"""

from __future__ import annotations

from collections.abc import Mapping

from protos.inference_pb2 import InferParameter
from service.errors import InvalidInput
from service.sequence_point import SEQUENCE_KEYS, read_sequence
from service.shared_memory import read_placement
from service.tensors import Placement, RequestedOutput, SequencePoint

Parameters = Mapping[str, InferParameter]

RESERVED_PREFIX = "triton_"
RESERVED = ("headers",)  # where servers that pass metadata on put it
EMPTY_FINAL = "triton_enable_empty_final_response"  # asked on streams of models that give several responses
REGION = "shared_memory_region"


def read_request(parameters: Parameters) -> tuple[int, int]:
    """(timeout in microseconds, priority), 0 where absent. Raises InvalidInput, Unsupported."""
    for key in parameters:
        if (key.startswith(RESERVED_PREFIX) and key != EMPTY_FINAL) or key in RESERVED:
            raise InvalidInput(
                f"parameter '{key[:40]}': names that begin with '{RESERVED_PREFIX}' are reserved, and so is 'headers': "
                "choose another"
            )
    return _count(parameters, "timeout", "the request"), _count(parameters, "priority", "the request")


def read_point(parameters: Parameters) -> SequencePoint | None:
    """Where in a sequence the request belongs, None: in none. Raises InvalidInput."""
    values = {key: _value(parameters[key]) for key in SEQUENCE_KEYS if key in parameters}
    identity = values.get("sequence_id")
    if type(identity) is int and identity < 0:
        values["sequence_id"] = identity + (1 << 64)  # a C++ client's number above 2^63, in the one kind it knows
    return read_sequence(values)


def find_placement(where: str, parameters: Parameters) -> Placement | None:
    """Where an input or output lies in shared memory; None: in the message. Raises InvalidInput."""
    if REGION not in parameters:
        return None
    return read_placement(where, {key: _value(parameter) for key, parameter in parameters.items()})


def read_output(name: str, parameters: Parameters) -> RequestedOutput:
    """The output that is asked for. Raises InvalidInput."""
    if not parameters:
        return RequestedOutput(name)
    return RequestedOutput(name, _count(parameters, "classification", f"output '{name}'"))


def _count(parameters: Parameters, key: str, where: str) -> int:
    """A whole number, zero or more; clients differ in which of the two integer kinds they send."""
    if key not in parameters:  # indexing would add the key
        return 0
    value = _value(parameters[key])
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(f"parameter '{key}' of {where} is {repr(value)[:60]}: send a whole number, zero or more")
    return value


def _value(parameter: InferParameter) -> bool | int | float | str | None:
    kind = parameter.WhichOneof("parameter_choice")
    value: bool | int | float | str | None = getattr(parameter, kind) if kind else None
    return value
