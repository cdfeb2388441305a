"""TorchServe's inference API: a file, a JSON list, or rows, without names where one input and one output need none.

    curl http://127.0.0.1:8000/predictions/resnet -T cat.jpg     ->  {"tabby": 0.41, ...}, where the output has labels
    curl http://127.0.0.1:8000/predictions/mlp -d '[1, 2, 3]'    ->  [2.0, 4.0, 6.0]

Translates only. A list with the dimensions of one row is one request of TorchServe's; with one more it is a batch.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from compiler.spec import TensorSpec
from service.plane import Plane
from service.repository.catalog import Entry
from service.rest import form, raw
from service.rest.doors import Answer, Content, Translated, json_answer
from service.rest.images import find_format, read_image
from service.rest.json_text import parse_value
from service.rest.rows import only_column, rows_to_columns, to_columns, without_name
from service.rest.tf_serving import encode_rows
from service.rest.v1 import FILES, classes, read_columns, read_file_body
from service.tensors import InferRequest, InferResponse, RequestedOutput, Tensor

TOP = 5  # classes, as TorchServe's image_classifier answers
WRAPPERS = ("data", "body")  # keys under which its handlers look for the content
VAGUE = (b"", form.URLENCODED, raw.RAW)  # curl says nothing, or what a form would be


class Predictions:
    """`await predictions.translate(bare, content)`: as `v1.py`, for the other form of request and answer."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def translate(self, bare: InferRequest, content: Content) -> Translated:
        """The request for the plane, and how to write its answer. Raises ServiceError."""
        entry = self._plane.catalog.ready_entry(bare.model, bare.version)
        kind, content = _unwrap(content)
        tensor = await _file(entry, kind, content)
        if tensor is not None:
            return _one(bare, entry, tensor)
        body = parse_value(content.body, content.limits)
        if isinstance(body, dict) and body.keys() == {"instances"}:
            return replace(
                bare, inputs=await read_columns(entry, rows_to_columns(entry, body["instances"]))
            ), encode_rows
        columns, is_row = _columns(entry, body)
        encode = _encode_row if is_row else _encode_batch
        return replace(bare, inputs=await read_columns(entry, columns)), encode


def _unwrap(content: Content) -> tuple[bytes, Content]:
    """The type of the body, or that of the file in a form, and what it holds."""
    if content.type == form.URLENCODED:
        value = form.only_field(content.body, WRAPPERS)
        return content.type, content if value is None else replace(content, body=value)
    if content.type != form.CONTENT_TYPE:
        return content.type, content
    kind, part = form.first_part(content.headers[b"content-type"], content.body)
    return kind, replace(content, body=part)


async def _file(entry: Entry, kind: bytes, content: Content) -> Tensor | None:
    """The input from a body that is no JSON: by its type, or by its first bytes where the type says little."""
    if kind in VAGUE:
        file_format = find_format(content.body)
        if file_format is not None:
            return await read_image(entry, content.body, file_format)
    return await read_file_body(entry, kind, content) if kind in FILES and kind != form.CONTENT_TYPE else None


def _one(bare: InferRequest, entry: Entry, tensor: Tensor) -> Translated:
    """A file is one row or several; an output with labels is answered as a map of them, as classifiers do."""
    request = replace(bare, inputs=(tensor,))
    if entry.images and len(entry.outputs) == 1 and entry.labels.get(entry.outputs[0].name):
        return replace(request, outputs=(RequestedOutput(entry.outputs[0].name, TOP),)), _encode_labels
    is_row = bool(entry.max_batch_size) and tensor.shape[:1] == (1,)
    return request, _encode_row if is_row else _encode_batch


def _columns(entry: Entry, body: Any) -> tuple[dict[str, Any], bool]:
    """Columns with a batch dimension, and whether it was added to what was sent."""
    if isinstance(body, dict) and len(body) == 1 and next(iter(body)) in WRAPPERS:
        body = next(iter(body.values()))
    columns = body if isinstance(body, dict) and body.keys() != {"b64"} else only_column(entry, body)
    specs = {spec.name: spec for spec in entry.inputs}
    if not entry.max_batch_size or not columns or columns.keys() - specs:
        return columns, False
    is_row = all(_is_row(specs[name], value) for name, value in columns.items())
    return ({name: [value] for name, value in columns.items()} if is_row else columns), is_row


def _is_row(spec: TensorSpec, value: Any) -> bool:
    """Whether `value` lacks the batch dimension; a file in base64 is one row."""
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = value[0] if value else None
    return depth == 0 if isinstance(value, dict) else depth == len(spec.shape) - 1


def _encode_row(response: InferResponse) -> Answer:
    columns, has_nan = to_columns(response)
    return json_answer(without_name({name: column[0] for name, column in columns.items()}), has_nan)


def _encode_batch(response: InferResponse) -> Answer:
    columns, has_nan = to_columns(response)
    return json_answer(without_name(columns), has_nan)


def _encode_labels(response: InferResponse) -> Answer:
    """`{label: value}` for a row, a list of these for several."""
    rows = classes(response.outputs[0])
    maps = [{each.get("label", str(each["index"])): each["value"] for each in row} for row in rows]
    return json_answer(maps[0] if len(maps) == 1 else maps, has_nan=False)
