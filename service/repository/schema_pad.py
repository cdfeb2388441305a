"""What may stand under `batching.pad` in model.yaml, and what is wrong with it beside the rest of the file.

Knows nothing of files. `schema.py` asks; `compiler/padding.py` has the rules, which hold for the program too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from compiler.padding import find_faults
from compiler.resolve import resolve_buckets
from compiler.spec import Padding, TensorSpec
from service.repository.schema_tensors import Int, Name, Part, TensorPart
from service.yaml_file import Location

Sizes = Annotated[tuple[Annotated[Int, Field(ge=1)], ...], Field(min_length=1)]


def _check_item(item: Any) -> Any:
    if (
        isinstance(item, bool)
        or not isinstance(item, int | str)
        or item in (0, "")
        or (type(item) is int and item < -1)
    ):
        raise ValueError(f"must be a size, -1 or the name of a dimension, not {item!r}")
    return item


def _check_value(value: Any) -> Any:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"must be a number, true or false, not {value!r}")
    return value


NamedShape = Annotated[tuple[Annotated[Any, AfterValidator(_check_item)], ...], Field(min_length=1)]


def _read_masks(masks: Any) -> Any:
    return [masks] if isinstance(masks, str) else masks


class PadPart(Part):
    dims: dict[Name, Sizes] = Field(min_length=1)
    inputs: dict[Name, NamedShape] = Field(min_length=1)  # [-1, length]: names in the place of some -1
    outputs: dict[Name, NamedShape] = Field(default_factory=dict)
    mask: Annotated[tuple[Name, ...], BeforeValidator(_read_masks)] = ()
    values: dict[Name, Annotated[Any, AfterValidator(_check_value)]] = Field(default_factory=dict)
    check: Annotated[bool, Field(strict=True)] = True


def freeze_pad(part: PadPart | None) -> Padding | None:
    """Dimensions in one order, whichever the file has: it is no other artifact for that."""
    if part is None:
        return None
    return Padding(
        dims=dict(sorted(part.dims.items())),
        inputs={name: _named(shape) for name, shape in part.inputs.items()},
        outputs={name: _named(shape) for name, shape in part.outputs.items()},
        masks=part.mask,
        values=part.values,
        check=part.check,
    )


def find_pad_flaws(
    part: PadPart | None,
    tensors: tuple[tuple[TensorPart, ...] | None, tuple[TensorPart, ...] | None],
    max_batch_size: int | None,
    buckets: tuple[int, ...] | None,
) -> Iterator[tuple[Location, str]]:
    """In sentences, with their places. `tensors` are the declared inputs and outputs; None: the program says them."""
    pad = freeze_pad(part)
    if part is None or pad is None:
        return
    inputs, outputs = tensors
    for where, shapes, parts in (("inputs", part.inputs, inputs), ("outputs", part.outputs, outputs)):
        for name, shape in shapes.items():
            flaw = _shape_flaw(name, shape, parts)
            if flaw:
                yield ("batching", "pad", where, name), f"batching.pad.{where}: {flaw}"
                return
    sizes = buckets or (resolve_buckets(None, max_batch_size) if max_batch_size else ())
    for keys, sentence in find_faults(pad, _specs(inputs), _specs(outputs), max_batch_size, sizes):
        yield ("batching", "pad", *keys), f"{'.'.join(('batching.pad', *keys[:1]))}: {sentence}"


def _named(shape: Sequence[int | str]) -> dict[int, str]:
    return {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}


def _shape_flaw(name: str, shape: Sequence[int | str], parts: tuple[TensorPart, ...] | None) -> str:
    declared = next((part.shape for part in parts or () if part.name == name), None)
    if not _named(shape):
        return f"'{name}' has the shape {list(shape)}, in which no dimension is named: write one in the place of a -1"
    if declared is None:
        return ""
    fits = len(shape) == len(declared) and all(
        isinstance(size, str) or size == want for size, want in zip(shape, declared, strict=True)
    )
    return (
        ""
        if fits
        else f"'{name}' is declared with the shape {list(declared)}: write it so, with names for some of -1, not "
        f"[{', '.join(map(str, shape))}]"
    )


def _specs(parts: tuple[TensorPart, ...] | None) -> tuple[TensorSpec, ...] | None:
    return None if parts is None else tuple(TensorSpec(part.name, part.datatype, part.shape) for part in parts)
