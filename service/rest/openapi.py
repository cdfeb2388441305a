"""The OpenAPI page: FastAPI's own routes, and for each ready model every way to infer with its inputs and an example.

Knows entries and schemas, nothing of the lane that answers those routes.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import FastAPI

from compiler.spec import TensorSpec
from service.control import Control
from service.repository.catalog import Entry
from service.tensors import elements

MAX_EXAMPLE_ELEMENTS = 1024  # a page with a million zeros helps nobody
KINDS = {"BOOL": "boolean", "BYTES": "string"}  # datatype -> type in a schema; all others are numbers
ZEROS = {"BOOL": False, "BYTES": ""}
BINARY = {"type": "string", "format": "binary"}


def describe_models(app: FastAPI, control: Control) -> None:
    """Let `app.openapi()` describe the models that are ready when it is asked."""
    routes_only = app.openapi

    def openapi() -> dict[str, Any]:
        document = dict(routes_only())
        described = {
            path: item for entry in control.entries() if entry.is_ready for path, item in _paths(entry).items()
        }
        return {**document, "paths": {**described, **document["paths"]}}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this as the way to extend it


def _paths(entry: Entry) -> dict[str, Any]:
    """One path for each way to ask this version, under the model's name."""
    version = f"/v1/models/{quote(entry.name)}/versions/{entry.version}"
    by_name = example_inputs(entry)
    generate = f"/v2/models/{quote(entry.name)}/versions/{entry.version}/generate"
    by_key = _json(_inputs(entry), by_name["inputs"] if by_name else None)
    generated = {
        generate: _operation(entry, "generate", by_key, _json(_generated(entry), None)),
        f"{generate}_stream": _operation(entry, "generate_stream", by_key, EVENTS),
    }
    if entry.is_decoupled:
        return generated
    infer_v2 = {
        f"/v2/models/{quote(entry.name)}/versions/{entry.version}/infer": _operation(
            entry, "infer_v2", _json(_v2_schema(entry), example_v2(entry)), _json(_v2_answer(entry), None)
        )
    }
    if entry.sequencing is not None:
        return infer_v2  # the other ways cannot say to which sequence a request belongs
    return {
        **generated,
        **infer_v2,
        f"{version}/infer": _operation(entry, "infer", _v1_content(entry, by_name), _v1_answer(entry)),
        f"{version}:predict": _operation(
            entry, "predict", _json(_object({"inputs": _inputs(entry)}), by_name), _json(_predict_answer(entry), None)
        ),
        f"/predictions/{quote(entry.name)}/{entry.version}": _operation(
            entry, "predictions", _predictions_content(entry, by_name), _json({}, None)
        ),
    }


SUMMARIES = {
    "infer": "Infer by name",
    "infer_v2": "Infer, Open Inference Protocol v2",
    "generate": "Generate one response",
    "generate_stream": "Generate, each response as an event",
    "predict": "Predict, as TensorFlow Serving and KServe v1",
    "predictions": "Predictions, as TorchServe",
}


EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


def _operation(entry: Entry, road: str, content: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "post": {
            "tags": [entry.name],
            "summary": f"{SUMMARIES[road]}: {entry.name}, version {entry.version}",
            "description": entry.description,
            "operationId": f"{road}_{entry.name}_{entry.version}",
            "parameters": [TIMING],
            "requestBody": {"required": True, "content": content},
            "responses": {
                "200": {"description": "The outputs", "content": answer},
                **{status: _error(text) for status, text in REFUSALS.items()},
            },
        }
    }


TIMING = {
    "name": "Server-Timing",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "enum": ["1", "0"]},
    "description": "1: the answer says in a header of this name where the time went.",
}
REFUSALS = {
    "400": "The request does not fit the model",
    "401": "A token is missing or not known, where the server asks for one",
    "403": "The token's scopes do not suffice, or this API is restricted",
    "413": "The request is larger than the limits of this server",
    "429": "Too much work waits, where the server is set to say so",
    "500": "The model failed on this input",
    "501": "A feature this server does not have",
    "503": "Not ready, or too much work waits",
    "504": "The request's time ran out",
}


def _v1_content(entry: Entry, example: Any) -> dict[str, Any]:
    content = _json(_object({"inputs": _inputs(entry)}), example)
    kinds = ["application/octet-stream", "application/x-npy"] if len(entry.inputs) == 1 else []
    kinds += ["image/png", "image/jpeg"] if entry.images else []
    return content | {kind: {"schema": BINARY} for kind in kinds}


def _v1_answer(entry: Entry) -> dict[str, Any]:
    content = _json(_answer_schema(entry), None)
    kinds = ("application/octet-stream", "application/x-npy") if len(entry.outputs) == 1 else ()
    return content | {kind: {"schema": BINARY} for kind in kinds}


def _predictions_content(entry: Entry, example: Any) -> dict[str, Any]:
    """Inputs without the word `inputs` around them."""
    content = _json(_inputs(entry), example["inputs"] if example else None)
    return content | ({kind: {"schema": BINARY} for kind in ("image/png", "image/jpeg")} if entry.images else {})


def example_inputs(entry: Entry) -> dict[str, Any] | None:
    """A request of one row that the model answers, or None where it would be too long to print."""
    shapes = example_shapes(entry)
    if shapes is None:
        return None
    pairs = zip(_given(entry), shapes, strict=True)
    return {"inputs": {spec.name: _zeros(shape, ZEROS.get(spec.datatype, 0)) for spec, shape in pairs}}


def example_v2(entry: Entry) -> dict[str, Any] | None:
    """The same in the v2 protocol."""
    shapes = example_shapes(entry)
    if shapes is None:
        return None
    return {
        **({} if entry.sequencing is None else {"parameters": {"sequence_id": 1, "sequence_start": True}}),
        "inputs": [
            {
                "name": spec.name,
                "shape": list(shape),
                "datatype": spec.datatype,
                "data": [ZEROS.get(spec.datatype, 0)] * elements(shape),
            }
            for spec, shape in zip(_given(entry), shapes, strict=True)
        ],
    }


def example_shapes(entry: Entry) -> list[tuple[int, ...]] | None:
    """One row of each input that must be given; sizes that vary are as their example says, else 1."""
    shapes = []
    for spec in _given(entry):
        shape = tuple(spec.example_shape or spec.shape)
        shape = (1, *shape[1:]) if entry.max_batch_size else shape
        shapes.append(tuple(1 if size < 0 else size for size in shape))
    return shapes if sum(map(elements, shapes)) <= MAX_EXAMPLE_ELEMENTS else None


def _given(entry: Entry) -> list[TensorSpec]:
    """The inputs that a request must bring. A mask of zeros would be no example."""
    optional = entry.optional
    return [spec for spec in entry.inputs if spec.name not in optional] or [*entry.inputs]


def _zeros(shape: tuple[int, ...], value: object) -> Any:
    return [_zeros(shape[1:], value) for _ in range(shape[0])] if shape else value


def _json(schema: dict[str, Any], example: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema, **({} if example is None else {"example": example})}}


def _inputs(entry: Entry) -> dict[str, Any]:
    described = _object({spec.name: _array(spec) for spec in entry.inputs})
    return {**described, "required": [spec.name for spec in _given(entry)]}


def _v2_schema(entry: Entry) -> dict[str, Any]:
    tensor = {
        "name": {"type": "string", "enum": [spec.name for spec in entry.inputs]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "enum": sorted({spec.datatype for spec in entry.inputs})},
        "data": {"type": "array", "items": {}},
    }
    schema = _object({"inputs": {"type": "array", "items": _object(tensor)}})
    if entry.sequencing is None:
        return schema
    return {**schema, "properties": {"parameters": SEQUENCE, **schema["properties"]}}


SEQUENCE = {
    "type": "object",
    "properties": {
        "sequence_id": {"oneOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]},
        "sequence_start": {"type": "boolean"},
        "sequence_end": {"type": "boolean"},
    },
    "required": ["sequence_id"],
}


def _v2_answer(entry: Entry) -> dict[str, Any]:
    tensor = {
        "name": {"type": "string", "enum": [spec.name for spec in entry.outputs]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"type": "string"},
        "data": {"type": "array", "items": {}},
    }
    names = {"model_name": {"type": "string"}, "model_version": {"type": "string"}}
    return _object({**names, "outputs": {"type": "array", "items": _object(tensor)}})


def _predict_answer(entry: Entry) -> dict[str, Any]:
    """One output stands without its name."""
    if len(entry.outputs) == 1:
        return _object({"outputs": _array(entry.outputs[0])})
    return _object({"outputs": _object({spec.name: _array(spec) for spec in entry.outputs})})


def _generated(entry: Entry) -> dict[str, Any]:
    """Outputs by name beside the model's; one value stands alone."""
    names = {"model_name": {"type": "string"}, "model_version": {"type": "string"}}
    return _object({**names, **{spec.name: {} for spec in entry.outputs}})


def _answer_schema(entry: Entry) -> dict[str, Any]:
    outputs = _object({spec.name: _array(spec) for spec in entry.outputs})
    return _object({"model_name": {"type": "string"}, "model_version": {"type": "string"}, "outputs": outputs})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(spec: TensorSpec) -> dict[str, Any]:
    kind = KINDS.get(spec.datatype, "number" if spec.datatype[0] in "FB" else "integer")
    schema: dict[str, Any] = {"type": kind}
    for size in reversed(spec.shape):
        schema = {"type": "array", "items": schema, **({"minItems": size, "maxItems": size} if size >= 0 else {})}
    return {**schema, "description": f"{spec.datatype} {list(spec.shape)}"}


def _error(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": _object({"error": {"type": "string"}})}},
    }
