"""torchere's own v1 inference: tensors by name in columns or rows, an OIP body, raw bytes, .npy, or an image.

    POST /v1/models/digits/infer   {"inputs": {"image": [[[[0, 0, 5, ...]]]]}}
    -> {"model_name": "digits", "model_version": "1", "outputs": {"probabilities": [[0.01, ...]]}}

Translates only; `infer.py` reads the body and writes the answer, the plane does the rest.
"""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec.structs import replace

from service.errors import InvalidInput
from service.plane import Plane
from service.repository.catalog import Entry
from service.rest import form, raw
from service.rest.arrays import array_to_bytes
from service.rest.codec import encode_infer, parse_request
from service.rest.doors import Answer, Content, Encode, Query, Translated, json_answer
from service.rest.errors import JSON
from service.rest.images import CONTENT_TYPES, read_file, read_image
from service.rest.json_text import parse_json
from service.rest.rows import (
    columns_to_tensors,
    explain,
    only_column,
    rows_to_columns,
    to_columns,
    to_rows,
    without_name,
)
from service.tensors import InferRequest, InferResponse, RequestedOutput, Tensor

ROWS = {"rows": "rows", "instances": "predictions"}  # what rows are asked as -> what they are answered as

FILES = frozenset((*CONTENT_TYPES, raw.RAW, *raw.NPY, form.CONTENT_TYPE))  # types of bodies that fill the only input
ANYTHING = b"*/*"


class V1:
    """`await v1.translate(bare, content)`: `bare` names the model, its inputs are read from the body."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def translate(self, bare: InferRequest, content: Content) -> Translated:
        """The request for the plane, and how to write its answer. Raises ServiceError."""
        entry = self._plane.catalog.ready_entry(bare.model, bare.version)
        kind = content.type
        if kind in FILES:
            tensor = await read_file_body(entry, kind, content)
            return _asked(bare, (tensor,), entry, content, "")
        body = parse_json(content.body, content.limits)
        inputs = body.get("inputs")
        rows_key = next((key for key in ROWS if key in body), "")
        if rows_key and "inputs" in body:
            raise InvalidInput(f"the request has both inputs and {rows_key}: send one of them")
        if isinstance(inputs, list) and (not inputs or isinstance(inputs[0], dict)):
            parsed = parse_request(body, memoryview(b""), content.limits)
            return parsed.asked_of(bare), _one_or(content, _encode_oip)
        if rows_key:
            inputs = rows_to_columns(entry, body[rows_key])
        elif isinstance(inputs, list):
            inputs = only_column(entry, inputs)
        if not isinstance(inputs, dict):
            raise InvalidInput(explain(entry))
        tensors = await read_columns(entry, inputs) if entry.images else columns_to_tensors(entry, inputs)
        return _asked(bare, tensors, entry, content, rows_key)


async def read_columns(entry: Entry, columns: dict[str, Any]) -> tuple[Tensor, ...]:
    """A tensor for each column; images in them are decoded beside the event loop."""
    if not entry.images:
        return columns_to_tensors(entry, columns)
    return await asyncio.to_thread(columns_to_tensors, entry, columns, lambda file: read_file(entry, file))


async def read_file_body(entry: Entry, content_type: bytes, content: Content) -> Tensor:
    """The only input from a body that is a file of one of the types of FILES."""
    if content_type in CONTENT_TYPES:
        return await read_image(entry, content.body, CONTENT_TYPES[content_type])
    if content_type == raw.RAW:
        return raw.read_raw(entry, content.body, content.headers.get(raw.SHAPE))
    if content_type in raw.NPY:
        return raw.read_npy(entry, content.body)
    kind, part = form.first_part(content.headers[b"content-type"], content.body)
    if kind not in FILES or kind == form.CONTENT_TYPE:
        known = b", ".join(sorted(FILES)).decode()
        raise InvalidInput(f"a part of type '{kind.decode('latin-1')[:60]}' is not understood: send one of {known}")
    return await read_file_body(entry, kind, replace(content, body=part))


def _asked(
    bare: InferRequest, tensors: tuple[Tensor, ...], entry: Entry, content: Content, rows_key: str
) -> Translated:
    """The outputs are all, those of `?output=`, or the largest classes of each where `?top=` says how many."""
    top = _top(content.query)
    names = content.query.get("output") or [spec.name for spec in entry.outputs]
    outputs = tuple(RequestedOutput(name, top) for name in names)
    request = replace(bare, inputs=tensors, outputs=outputs)
    return request, _one_or(content, lambda response: encode_by_name(response, top > 0, rows_key))


def _one_or(content: Content, encode: Encode) -> Encode:
    """`encode`, unless Accept asks for a format of one tensor."""
    accept = content.headers.get(b"accept", ANYTHING)
    wanted = wanted_format(accept) if accept != ANYTHING else b""
    if not wanted:
        return encode
    return lambda response: (200, *raw.write_one(response, wanted))


def wanted_format(accept: bytes) -> bytes:
    """The first format of Accept that is known here, "" for JSON, which is also the answer to what is not known."""
    for part in accept.lower().split(b","):
        kind = part.partition(b";")[0].strip()
        if kind == raw.RAW or kind in raw.NPY:
            return kind
        if kind in (b"application/json", b"*/*"):
            return b""
    return b""


def _encode_oip(response: InferResponse) -> Answer:
    text, _ = encode_infer(response, {}, binary_default=False)
    return 200, [JSON], [text]


def encode_by_name(response: InferResponse, classified: bool, rows_key: str) -> Answer:
    """`outputs` by name, or rows where rows were sent: nested lists, or the largest values with index and label."""
    has_nan = False
    if classified:
        columns: dict[str, Any] = {tensor.name: classes(tensor) for tensor in response.outputs}
    else:
        columns, has_nan = to_columns(response)
    answer: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if rows_key:
        is_bare = rows_key == "instances" and len(columns) == 1  # as whoever says instances is used to
        answer[ROWS[rows_key]] = without_name(columns) if is_bare else to_rows(columns)
    else:
        answer["outputs"] = columns
    return json_answer(answer, has_nan)


def classes(tensor: Tensor) -> list[Any]:
    """The strings of a classification as objects, nested by row where there are rows."""
    values = [_class(text) for text in array_to_bytes(tensor)]
    if len(tensor.shape) == 1:
        return values
    count = tensor.shape[1]
    return [values[at : at + count] for at in range(0, len(values), count)]


def _class(text: str) -> dict[str, Any]:
    value, _, rest = text.partition(":")
    index, _, label = rest.partition(":")
    return {"value": float(value), "index": int(index), **({"label": label} if label else {})}


def _top(query: Query) -> int:
    text = query.get("top", ["0"])[0]
    if not text.isdecimal() or len(text) > 7:
        raise InvalidInput(f"top must be a number of classes, got '{text[:40]}'")
    return int(text)
