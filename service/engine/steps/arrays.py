"""Tensors of a message to the arrays that a step gets, and what a step gives back to tensors, checked by datatype.

Pure. BF16 is float32 on both sides, for NumPy has none; BYTES are object arrays of bytes. `code.py` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.engine.steps.messages import Described, Tensors
from service.tensors import NUMPY_TYPES, Tensor, float32_to_bf16, pack_bytes, to_numpy

Arrays = dict[str, np.ndarray[Any, Any]]


class WrongResult(Exception):
    """A step gave something else than model.yaml, or the model, says."""


def to_arrays(tensors: Tensors, body: memoryview) -> tuple[Arrays, memoryview]:
    """The arrays by name, which the step may write to, and what of `body` is left."""
    arrays: Arrays = {}
    for each in tensors:
        data, body = body[: each.size], body[each.size :]
        array = to_numpy(Tensor(each.name, each.datatype, each.shape, data))
        arrays[each.name] = array if array.flags.writeable else array.copy()
    return arrays, body


def to_tensors(result: Any, expected: Mapping[str, str], what: str) -> tuple[Tensors, list[bytes]]:
    """The tensors that `result` describes, in the order of `expected`: name -> datatype. Raises WrongResult."""
    if not isinstance(result, Mapping):
        raise WrongResult(f"{what} must be a dict of arrays by name, not {type(result).__name__}")
    names = ", ".join(map(str, expected)) or "none"
    unknown = [name for name in result if name not in expected]
    missing = [name for name in expected if name not in result]
    if unknown or missing:
        wrong = f"has '{str(unknown[0])[:60]}'" if unknown else f"lacks '{missing[0]}'"
        raise WrongResult(f"{what} {wrong}: it must have {names}")
    described, blobs = [], []
    for name, datatype in expected.items():
        array = _numbers(result[name], datatype, f"{what}: '{name}'")
        blob = pack_bytes(array.reshape(-1).tolist()) if datatype == "BYTES" else _raw(array, datatype)
        described.append(Described(name, datatype, array.shape, len(blob)))
        blobs.append(blob)
    return tuple(described), blobs


def _numbers(value: Any, datatype: str, what: str) -> np.ndarray[Any, Any]:
    """An array of the datatype's own type: arrays must be of it already, lists and plain numbers are converted."""
    if datatype == "BYTES":
        return _texts(value, what)
    dtype = NUMPY_TYPES["FP32" if datatype == "BF16" else datatype]
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.newbyteorder("<") != dtype:
            remedy = f"use .astype(np.{dtype.name})"
            raise WrongResult(f"{what} must be {dtype.name}{_aside(datatype)}, got {value.dtype.name}: {remedy}")
        return np.asarray(value, dtype)
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise WrongResult(f"{what} does not become an array of {dtype.name}: {error}") from error


def _aside(datatype: str) -> str:
    return ", in which BF16 travels" if datatype == "BF16" else f", that is {datatype}"


def _texts(value: Any, what: str) -> np.ndarray[Any, Any]:
    """Bytes as they are, text as UTF-8."""
    array = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    packed = np.empty(array.size, dtype=object)
    for index, each in enumerate(array.reshape(-1).tolist()):
        if not isinstance(each, bytes | bytearray | str):
            raise WrongResult(f"{what} is BYTES and must hold bytes or str, got {type(each).__name__}")
        packed[index] = each.encode() if isinstance(each, str) else bytes(each)
    return packed.reshape(array.shape)


def _raw(array: np.ndarray[Any, Any], datatype: str) -> bytes:
    return float32_to_bf16(array) if datatype == "BF16" else array.tobytes()
