"""The words of model.yaml for a tensor: its name, datatype and shape, as pydantic models.

Knows nothing of files. `schema.py` and `schema_scheduling.py` build on it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from compiler.spec import ITEM_SIZES
from service.nearest import nearest

TORCH_NAMES = {"float": "FP", "int": "INT", "uint": "UINT", "bool": "BOOL", "bfloat": "BF"}


def _check_datatype(name: str) -> str:
    if name in ITEM_SIZES or name == "BYTES":
        return name
    letters = name.lower().rstrip("0123456789")
    meant = TORCH_NAMES.get(letters, letters.upper()) + name[len(letters) :]
    raise ValueError(f"'{name}' is not a datatype: {nearest(meant, ITEM_SIZES)}")


def _check_size(size: int) -> int:
    if size < -1 or size == 0:
        raise ValueError(f"must be positive, or -1 for a size that varies, not {size}")
    return size


Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Int = Annotated[int, Field(strict=True)]  # strict: `yes` is not 1
Size = Annotated[Int, AfterValidator(_check_size)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Datatype = Annotated[str, AfterValidator(_check_datatype)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorPart(Part):
    """A tensor: numbers, or text as BYTES, which no program takes or gives."""

    name: Name
    datatype: Datatype
    shape: tuple[Size, ...]
