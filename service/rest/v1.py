"""torchere's own v1 inference: tensors by name, an OIP body, or an image where the model declares one.

    POST /v1/models/digits/infer   {"inputs": {"image": [[[[0, 0, 5, ...]]]]}}
    -> {"model_name": "digits", "model_version": "1", "outputs": {"probabilities": [[0.01, ...]]}}

Translates only; `infer.py` reads the body and writes the answer, the plane does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from service.errors import InvalidInput
from service.plane import Plane
from service.repository.catalog import Entry
from service.rest.arrays import array_to_bytes, json_to_tensor
from service.rest.codec import dump_json, encode_infer, json_data, parse_json, parse_request
from service.rest.errors import Headers
from service.rest.images import CONTENT_TYPES, decode_image
from service.tensors import Buffer, InferRequest, InferResponse, RequestedOutput, Tensor

JSON_HEADERS: Headers = [(b"content-type", b"application/json")]
Query = dict[str, list[str]]
Answer = tuple[int, Headers, Sequence[Buffer]]
Encode = Callable[[InferResponse], Answer]


class V1:
    """`await v1.translate(bare, headers, body, query)`: `bare` names the model, its inputs are read from the body."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane

    async def translate(
        self, bare: InferRequest, headers: dict[bytes, bytes], body: bytes | bytearray, query: Query
    ) -> tuple[InferRequest, Encode]:
        """The request for the plane, and how to write its answer. Raises ServiceError."""
        content_type = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        entry = self._plane.catalog.ready_entry(bare.model, bare.version)
        if content_type in CONTENT_TYPES:
            tensor = await self._image(entry, body, CONTENT_TYPES[content_type])
            return _by_name(replace(bare, inputs=(tensor,)), entry, query)
        content = parse_json(body)
        inputs = content.get("inputs")
        if isinstance(inputs, list):
            return parse_request(content, memoryview(b"")).asked_of(bare), _encode_oip
        if not isinstance(inputs, dict):
            raise InvalidInput(_explain(entry))
        tensors = tuple(_tensor(entry, name, data) for name, data in inputs.items())
        return _by_name(replace(bare, inputs=tensors), entry, query)

    async def _image(self, entry: Entry, body: bytes | bytearray, file_format: str) -> Tensor:
        if not entry.images:
            raise InvalidInput(f"model '{entry.name}' takes no image files: {_explain(entry)}")
        if len(entry.inputs) != 1:
            raise InvalidInput(f"model '{entry.name}' has {len(entry.inputs)} inputs, an image body can fill only one")
        image, spec = entry.images[0], entry.inputs[0]
        return await asyncio.to_thread(decode_image, body, file_format, image, spec)


def _by_name(request: InferRequest, entry: Entry, query: Query) -> tuple[InferRequest, Encode]:
    top = _top(query)
    outputs = tuple(RequestedOutput(spec.name, top) for spec in entry.outputs)
    return replace(request, outputs=outputs), lambda response: (
        200,
        list(JSON_HEADERS),
        [encode_by_name(response, classified=top > 0)],
    )


def _encode_oip(response: InferResponse) -> Answer:
    text, _ = encode_infer(response, {}, binary_default=False)
    return 200, list(JSON_HEADERS), [text]


def encode_by_name(response: InferResponse, classified: bool) -> bytes:
    """`outputs` by name: nested lists, or for each row the largest values with index and label."""
    outputs: dict[str, Any] = {}
    has_nan = False
    for tensor in response.outputs:
        if classified:
            outputs[tensor.name] = _classes(tensor)
            continue
        values, is_finite = json_data(tensor)
        has_nan |= not is_finite
        outputs[tensor.name] = _nested(values, tensor.shape)
    return dump_json({"model_name": response.model, "model_version": response.version, "outputs": outputs}, has_nan)


def _nested(values: Any, shape: tuple[int, ...]) -> Any:
    """Numbers stay an array, whose float32 values print in their own precision; text becomes nested lists."""
    array = values if isinstance(values, np.ndarray) else np.array([*values, None], dtype=object)[:-1]
    array = array.reshape(shape)
    return array if array.ndim and array.dtype != object else array.tolist()


def _classes(tensor: Tensor) -> list[Any]:
    values = [_class(text) for text in array_to_bytes(tensor)]
    if len(tensor.shape) == 1:
        return values
    count = tensor.shape[1]
    return [values[at : at + count] for at in range(0, len(values), count)]


def _class(text: str) -> dict[str, Any]:
    value, _, rest = text.partition(":")
    index, _, label = rest.partition(":")
    return {"value": float(value), "index": int(index), **({"label": label} if label else {})}


def _tensor(entry: Entry, name: str, data: Any) -> Tensor:
    """An unknown name gets a datatype all the same: the plane refuses it with the model's own names."""
    datatype = next((spec.datatype for spec in entry.inputs if spec.name == name), "FP32")
    return json_to_tensor(name, datatype, None, data)


def _top(query: Query) -> int:
    text = query.get("top", ["0"])[0]
    if not text.isdecimal() or len(text) > 7:
        raise InvalidInput(f"top must be a number of classes, got '{text[:40]}'")
    return int(text)


def _explain(entry: Entry) -> str:
    names = ", ".join(f'"{spec.name}": [...]' for spec in entry.inputs)
    return f'send a JSON object {{"inputs": {{{names}}}}} with the values of each input, batch dimension included'
