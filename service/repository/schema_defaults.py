"""Inputs that a client may leave out: whether the `default` in model.yaml can be what the server fills them with.

Pure: knows one tensor's words at a time. `schema.py` asks for each input, `service/defaults.py` fills.
"""

from __future__ import annotations

import numpy as np

from service.repository.schema_tensors import TensorPart
from service.tensors import NUMPY_TYPES

Default = bool | int | float | str


def find_flaw(part: TensorPart, default: Default, may_have_batch: bool) -> str:
    """Why `default` cannot stand for the tensor; "" where it can. A first size of -1 may be the batch."""
    sizes = part.shape[1:] if may_have_batch and part.shape[:1] == (-1,) else part.shape
    if -1 in sizes:
        return (
            f"'{part.name}' has a default, but its shape {list(part.shape)} leaves open how much of it to fill in: "
            "give it fixed sizes, or remove the default"
        )
    if not _fits(part.datatype, default):
        return f"default of '{part.name}' must be one value of {part.datatype}, not {default!r}"
    return ""


def _fits(datatype: str, default: Default) -> bool:
    if datatype in ("BOOL", "BYTES"):
        return isinstance(default, bool if datatype == "BOOL" else str)
    if isinstance(default, bool | str):
        return False
    if datatype == "BF16" or NUMPY_TYPES[datatype].kind == "f":
        return True
    bounds = np.iinfo(NUMPY_TYPES[datatype])
    return isinstance(default, int) and bounds.min <= default <= bounds.max
