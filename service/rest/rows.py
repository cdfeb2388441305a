"""Tensors as JSON by name, in columns (all rows of an input together) or in rows (all inputs of a row together).

    columns  {"x": [[1, 2], [3, 4]]}
    rows     [{"x": [1, 2]}, {"x": [3, 4]}]   or, where there is one input,   [[1, 2], [3, 4]]

Pure. `v1.py`, `tf_serving.py` and `torch_serve.py` translate with it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.spec import TensorSpec
from service.errors import InvalidInput
from service.repository.catalog import Entry
from service.rest.arrays import array_to_bytes, json_to_tensor
from service.rest.codec import json_data
from service.rest.json_text import kind
from service.tensors import InferResponse, Tensor, byte_size, elements, pack_bytes, unpack_bytes

Decode = Callable[[bytes], Tensor]  # an image file to one row


def columns_to_tensors(entry: Entry, columns: dict[str, Any], decode: Decode | None = None) -> tuple[Tensor, ...]:
    """A tensor for each name; `decode` reads image files where the model takes them."""
    return tuple(_tensor(entry, name, data, decode) for name, data in columns.items())


def only_column(entry: Entry, data: Any) -> dict[str, Any]:
    """The column of a model with one input, whose name the client left out."""
    if len(entry.inputs) != 1:
        raise InvalidInput(f"model '{entry.name}' has {len(entry.inputs)} inputs: name each: {explain(entry)}")
    return {entry.inputs[0].name: data}


def rows_to_columns(entry: Entry, rows: Any) -> dict[str, Any]:
    """Rows turned into columns: each row an object by input name, or the bare value of the only input."""
    if not isinstance(rows, list) or not rows:
        came = "an empty list" if rows == [] else kind(rows)
        raise InvalidInput(f"the rows must be a list of one row or more, got {came}")
    if not all(map(_is_named, rows)):
        if any(map(_is_named, rows)):
            raise InvalidInput("some rows are objects by input name and some are not: send all in one form")
        return only_column(entry, rows)
    names = rows[0].keys()
    for index, row in enumerate(rows):
        if row.keys() != names:
            raise InvalidInput(f"row {index} has other inputs than row 0: give each row the same")
    return {name: [row[name] for row in rows] for name in names}


def to_columns(response: InferResponse) -> tuple[dict[str, Any], bool]:
    """The outputs by name, nested as their shapes are, and whether any value is NaN or infinite."""
    columns, has_nan = {}, False
    for tensor in response.outputs:
        columns[tensor.name], is_finite = nested(tensor)
        has_nan |= not is_finite
    return columns, has_nan


def to_rows(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """One object by output name for each row. Raises InvalidInput where the outputs do not have the same rows."""
    counts = {_count(column) for column in columns.values()}
    if len(counts) != 1 or None in counts:
        raise InvalidInput("the outputs of this model do not share their first dimension: ask in columns (inputs)")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def without_name(columns: dict[str, Any]) -> Any:
    """The outputs by name, or the only one without its name, as TensorFlow Serving and TorchServe answer."""
    return next(iter(columns.values())) if len(columns) == 1 else columns


def nested(tensor: Tensor) -> tuple[Any, bool]:
    """Values for JSON, and whether all are finite.

    Numbers stay an array, whose float32 values print in their own precision; text becomes nested lists.
    """
    if tensor.datatype == "BYTES":
        return _object_array(_texts(tensor), tensor.shape).tolist(), True
    values, is_finite = json_data(tensor)
    array = values.reshape(tensor.shape)
    return (array if array.ndim else array.tolist()), is_finite


def explain(entry: Entry) -> str:
    """The remedy for a body that is not understood, with the model's own inputs."""
    names = ", ".join(f'"{spec.name}": [...]' for spec in entry.inputs)
    return f'send a JSON object {{"inputs": {{{names}}}}} with the values of each input, batch dimension included'


def _tensor(entry: Entry, name: str, data: Any, decode: Decode | None) -> Tensor:
    spec = next((spec for spec in entry.inputs if spec.name == name), None)
    if spec is None:
        raise InvalidInput(f"model '{entry.name}' has no input '{name[:100]}': {explain(entry)}")
    if _is_base64(_first(data)):
        return _files(entry, spec, data, decode)
    return json_to_tensor(name, spec.datatype, None, data)


def _files(entry: Entry, spec: TensorSpec, data: Any, decode: Decode | None) -> Tensor:
    """`{"b64": ...}` for an image where the model takes them, for text, and for the little-endian bytes of a row."""
    items = _object_array_of(data)
    files = [_from_base64(spec.name, item) for item in items.reshape(-1)]
    if spec.datatype == "BYTES":
        return Tensor(spec.name, "BYTES", items.shape, pack_bytes(files))
    if items.ndim > 1:
        raise InvalidInput(f"input '{spec.name}': b64 stands for a whole row, got them nested {items.ndim} deep")
    if entry.images and decode is not None:
        if len(files) > entry.max_batch_size:
            raise InvalidInput(
                f"input '{spec.name}': {len(files)} images are more than max_batch_size {entry.max_batch_size} "
                f"of model '{entry.name}': split the request"
            )
        rows = [decode(file) for file in files]
        return Tensor(spec.name, spec.datatype, (len(rows), *rows[0].shape[1:]), b"".join(row.data for row in rows))
    row = spec.shape[1:]
    if any(size < 0 for size in row):
        raise InvalidInput(f"input '{spec.name}' has rows of varying size: send numbers in place of b64")
    for file in files:
        if len(file) != byte_size(spec.datatype, row):
            expected = byte_size(spec.datatype, row)
            raise InvalidInput(f"input '{spec.name}': a row takes {expected} bytes, a b64 has {len(file)}")
    return Tensor(spec.name, spec.datatype, (len(files), *row), b"".join(files))


def _from_base64(name: str, item: Any) -> bytes:
    if not _is_base64(item):
        raise InvalidInput(f"input '{name}': some values are b64 and some are not: send all in one form")
    try:
        return base64.b64decode(item["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"input '{name}': b64 is not valid base64: {error}") from error


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _is_named(row: Any) -> bool:
    return isinstance(row, dict) and not _is_base64(row)


def _first(data: Any) -> Any:
    """The first value of nested lists: what it is, the others have to be."""
    while isinstance(data, list) and data:
        data = data[0]
    return data


def _texts(tensor: Tensor) -> list[Any]:
    """The elements as text, or all as b64 where one of them is not UTF-8."""
    try:
        return list(array_to_bytes(tensor))
    except InvalidInput:
        values = unpack_bytes(tensor.data, elements(tensor.shape))
        return [{"b64": base64.b64encode(value).decode()} for value in values]


def _object_array(values: list[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def _object_array_of(data: Any) -> np.ndarray[Any, Any]:
    return np.array(data, dtype=object)


def _count(column: Any) -> int | None:
    return len(column) if isinstance(column, list | np.ndarray) else None
