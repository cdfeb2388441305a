"""JSON values to tensors: numbers flat or nested, checked against the datatype before they become bytes.

Pure. `codec.py` uses it for v2, `v1.py` for inputs by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from service.errors import InvalidInput
from service.tensors import NUMPY_TYPES, Tensor, elements, float32_to_bf16, pack_bytes, shape_text, unpack_bytes

RAGGED = (
    "data is not a regular array, as some of its lists have other lengths than others: a request has one size of each "
    "dimension, so send rows of another size in a request of their own"
)
FLOATS = ("FP16", "BF16", "FP32", "FP64")


def json_to_tensor(name: str, datatype: str, shape: tuple[int, ...] | None, data: Any) -> Tensor:
    """The tensor that `data` (a number, or a list, flat or nested) describes; `shape` None: that of the nesting.

    Raises InvalidInput where values do not fit the datatype, or their count the shape.
    """
    if datatype == "BYTES":
        return _strings(name, shape, data)
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError) as error:  # how numpy refuses it
        raise InvalidInput(f"input '{name}': {RAGGED}") from error
    if datatype == "UINT64" and array.dtype.kind == "f":
        array = _exact(data, array)
    _check_kind(name, datatype, array)
    if shape is None:
        shape = array.shape
    elif array.size != elements(shape):
        raise InvalidInput(
            f"input '{name}': data has {array.size} values, shape {shape_text(shape)} takes {elements(shape)}"
        )
    if datatype == "BF16":
        return Tensor(name, datatype, shape, float32_to_bf16(array))
    with np.errstate(over="ignore"):  # a float too large for FP16 or FP32 becomes infinite, as a client's own cast does
        return Tensor(name, datatype, shape, np.ascontiguousarray(array, NUMPY_TYPES[datatype]).tobytes())


def _exact(data: Any, rounded: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole numbers on both sides of 2**63, which NumPy makes fractions of, as they were sent; else `rounded`."""
    values = np.array(data, dtype=object)
    is_whole = all(type(value) is int and 0 <= value < 1 << 64 for value in values.reshape(-1))
    return values.astype(np.uint64) if is_whole else rounded


def _check_kind(name: str, datatype: str, array: np.ndarray[Any, Any]) -> None:
    """Numbers for numbers, booleans for BOOL, and integers within their range."""
    if array.size == 0:
        return
    wanted = "biuf" if datatype in FLOATS else "b" if datatype == "BOOL" else "iu"
    if array.dtype.kind not in wanted:
        words = {"U": "text", "O": "mixed or too large values", "f": "fractions", "b": "booleans"}
        came = words.get(array.dtype.kind, "other values")
        need = "numbers" if datatype in FLOATS else "true or false" if datatype == "BOOL" else "whole numbers"
        raise InvalidInput(f"input '{name}': {datatype} takes {need}, data holds {came}")
    if wanted == "iu":
        bounds = np.iinfo(NUMPY_TYPES[datatype])
        low, high = int(array.min()), int(array.max())
        if low < bounds.min or high > bounds.max:
            worst = low if low < bounds.min else high
            raise InvalidInput(f"input '{name}': {worst} does not fit {datatype} ({bounds.min} to {bounds.max})")


def _strings(name: str, shape: tuple[int, ...] | None, data: Any) -> Tensor:
    values, nested_shape = _flatten(name, data)
    shape = nested_shape if shape is None else shape
    if len(values) != elements(shape):
        raise InvalidInput(
            f"input '{name}': data has {len(values)} values, shape {shape_text(shape)} takes {elements(shape)}"
        )
    return Tensor(name, "BYTES", shape, pack_bytes([value.encode() for value in values]))


def _flatten(name: str, data: Any) -> tuple[list[str], tuple[int, ...]]:
    array = np.array(data, dtype=object)
    values = array.reshape(-1).tolist()
    if any(isinstance(value, list) for value in values):
        raise InvalidInput(f"input '{name}': {RAGGED}")
    if not all(isinstance(value, str) for value in values):
        raise InvalidInput(f"input '{name}': BYTES takes strings in JSON: send other bytes as binary data")
    return values, array.shape


def array_to_bytes(tensor: Tensor) -> list[str]:
    """The elements of a BYTES tensor as text. Raises InvalidInput where they are not UTF-8."""
    try:
        return [value.decode() for value in unpack_bytes(tensor.data, elements(tensor.shape))]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"output '{tensor.name}' is not UTF-8 text: ask for binary_data") from error
