"""Triton's generate extension: inputs by name at the top of the JSON, outputs by name at the top of the answer.

    POST /v2/models/story/generate   {"text_input": "Once", "max_tokens": 8, "parameters": {"priority": 1}}
    -> {"model_name": "story", "model_version": "1", "text_output": "Once upon a time"}

Translates only. `infer.py` asks the plane for one response, `events.py` for all of them.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from msgspec.structs import replace

from service.errors import InvalidInput
from service.limits import Limits
from service.plane import Plane
from service.repository.catalog import Entry
from service.rest.codec import parse_request
from service.rest.doors import Answer, json_answer
from service.rest.json_text import dump_json, kind, parse_json
from service.rest.rows import columns_to_tensors, nested
from service.tensors import Buffer, InferRequest, InferResponse, elements

NOTHING = memoryview(b"")


def read_generate(entry: Entry, bare: InferRequest, body: Buffer, limits: Limits) -> InferRequest:
    """The request for the plane. What is no input is a parameter, as Triton has it. Raises InvalidInput."""
    given = parse_json(body, limits)
    ranks = {spec.name: len(spec.shape) for spec in entry.inputs}
    inner = given.get("parameters", {}) if "parameters" not in ranks else {}
    if not isinstance(inner, dict):
        raise InvalidInput(f"parameters must be a JSON object, got {kind(inner)}")
    identity = given.get("id", "") if "id" not in ranks else ""
    columns: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    for name, value in {**inner, **given}.items():
        if name in ranks:
            columns[name] = _with_rank(value, ranks[name])
        elif name not in ("id", "parameters"):
            parameters[name] = _check_parameter(entry, name, value)
    parsed = parse_request({"id": identity, "parameters": parameters, "inputs": []}, NOTHING, limits)
    return replace(parsed.asked_of(bare), inputs=columns_to_tensors(entry, columns))


def _with_rank(value: Any, rank: int) -> Any:
    """`value` in as many lists as the input has dimensions: one value, or one row, needs none."""
    depth, inner = 0, value
    while isinstance(inner, list):
        depth += 1
        inner = inner[0] if inner else None
    for _ in range(rank - depth):
        value = [value]
    return value


def _check_parameter(entry: Entry, name: str, value: Any) -> Any:
    if not isinstance(value, str | int | float | bool):
        names = ", ".join(spec.name for spec in entry.inputs)
        raise InvalidInput(
            f"'{name[:100]}' is no input of model '{entry.name}', which are {names}, and a parameter must be text, a "
            f"number, true or false, got {kind(value)}"
        )
    return value


def to_object(response: InferResponse) -> tuple[dict[str, Any], bool]:
    """The answer as an object, and whether any value is NaN or infinite: one value stands alone, several flat."""
    answer: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        answer["id"] = response.id
    has_nan = False
    for tensor in response.outputs:
        values, is_finite = nested(replace(tensor, shape=(elements(tensor.shape),)))
        answer[tensor.name] = values[0] if len(values) == 1 else values
        has_nan |= not is_finite
    return answer, has_nan


def encode_generated(response: InferResponse) -> Answer:
    return json_answer(*to_object(response))


def encode_event(response: InferResponse) -> bytes:
    return dump_json(*to_object(response))


async def ask_for_one(plane: Plane, request: InferRequest) -> InferResponse:
    """The one response of a model that may give several. Raises InvalidInput where it gives another number."""
    found: InferResponse | None = None
    async with aclosing(plane.stream(request)) as responses:
        async for response in responses:
            if not response.outputs:
                break  # the end of several, of which this is no one
            if found is not None:
                raise InvalidInput(_not_one(request.model, "several responses"))
            found = response
    if found is None:
        raise InvalidInput(_not_one(request.model, "no response"))
    return found


def _not_one(model: str, what: str) -> str:
    return f"generate answers with exactly one response, model '{model}' gave {what}: use generate_stream"
