"""Fills in the inputs that a request left out, where the model's owner gave them a default.

Pure. `plane.py` asks once the request was checked and its rows are known; engines never see that something was missing.
"""

from __future__ import annotations

import numpy as np

from compiler.spec import TensorSpec
from service.padded_sizes import mask_shape, read_sizes
from service.repository.catalog import Entry
from service.tensors import NUMPY_TYPES, Tensor, elements, float32_to_bf16, pack_bytes


def fill_inputs(inputs: tuple[Tensor, ...], entry: Entry, rows: int) -> tuple[Tensor, ...]:
    """All inputs of the model: those given, and the others at their default for as many rows.

    A mask that was left out lets all of the request count.
    """
    given, pad = {tensor.name for tensor in inputs}, entry.pad
    sizes = read_sizes(pad, [(tensor.name, tensor.shape) for tensor in inputs], entry.name) if pad is not None else {}
    filled = []
    for spec in entry.inputs:
        if spec.name in given:
            continue
        if pad is not None and spec.name in pad.masks:
            filled.append(_filled(spec, mask_shape(pad, spec.name, sizes, rows), spec.datatype == "BOOL" or 1))
        else:
            shape = (rows, *spec.shape[1:]) if spec.shape[:1] == (-1,) else spec.shape
            filled.append(_filled(spec, shape, entry.defaults[spec.name]))
    return (*inputs, *filled)


def _filled(spec: TensorSpec, shape: tuple[int, ...], value: bool | int | float | str) -> Tensor:
    if isinstance(value, str):
        data = pack_bytes([value.encode()] * elements(shape))
    elif spec.datatype == "BF16":
        data = float32_to_bf16(np.full(shape, value, np.float32))
    else:
        data = np.full(shape, value, NUMPY_TYPES[spec.datatype]).tobytes()
    return Tensor(spec.name, spec.datatype, shape, data)
