"""The OpenAPI page: FastAPI's own routes, and for each ready model its inference route with its inputs and an example.

Knows entries and schemas, nothing of the lane that answers those routes.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from compiler.spec import TensorSpec
from service.control import Control
from service.repository.catalog import Entry

MAX_EXAMPLE_ELEMENTS = 1024  # a page with a million zeros helps nobody


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
    content: dict[str, Any] = {"application/json": {"schema": _inputs_schema(entry)}}
    example = example_request(entry)
    if example is not None:
        content["application/json"]["example"] = example
    if entry.images:
        content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/png", "image/jpeg")}
    name = f"{entry.name}_{entry.version}"
    operation = {
        "tags": [entry.name],
        "summary": f"Infer with {entry.name}, version {entry.version}",
        "description": entry.description,
        "operationId": f"infer_{name}",
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {
                "description": "The outputs by name",
                "content": {"application/json": {"schema": _answer_schema(entry)}},
            },
            "400": _error("The request does not fit the model"),
            "503": _error("Not ready, or too much work waits"),
        },
    }
    return {f"/v1/models/{entry.name}/versions/{entry.version}/infer": {"post": operation}}


def example_request(entry: Entry) -> dict[str, Any] | None:
    """A request of one row that the model answers, or None where it would be too long to print."""
    inputs = {}
    for spec in entry.inputs:
        shape = tuple(spec.example_shape or spec.shape)
        shape = (1, *shape[1:]) if entry.max_batch_size else shape
        shape = tuple(1 if size < 0 else size for size in shape)
        total = 1
        for size in shape:
            total *= size
        if total > MAX_EXAMPLE_ELEMENTS:
            return None
        inputs[spec.name] = _zeros(shape, False if spec.datatype == "BOOL" else 0)
    return {"inputs": inputs}


def _zeros(shape: tuple[int, ...], value: object) -> Any:
    return [_zeros(shape[1:], value) for _ in range(shape[0])] if shape else value


def _inputs_schema(entry: Entry) -> dict[str, Any]:
    return _object({"inputs": _object({spec.name: _array(spec) for spec in entry.inputs})})


def _answer_schema(entry: Entry) -> dict[str, Any]:
    outputs = _object({spec.name: _array(spec) for spec in entry.outputs})
    return _object({"model_name": {"type": "string"}, "model_version": {"type": "string"}, "outputs": outputs})


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(spec: TensorSpec) -> dict[str, Any]:
    kind = "boolean" if spec.datatype == "BOOL" else "number" if spec.datatype[0] in "FB" else "integer"
    schema: dict[str, Any] = {"type": kind}
    for size in reversed(spec.shape):
        schema = {"type": "array", "items": schema, **({"minItems": size, "maxItems": size} if size >= 0 else {})}
    return {**schema, "description": f"{spec.datatype} {list(spec.shape)}"}


def _error(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": _object({"error": {"type": "string"}})}},
    }
