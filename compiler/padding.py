"""Sizes that are padded: whether what an owner says of them fits a model, and at which sizes it is verified.

Pure: no torch, no files. The service asks for what model.yaml declares, `reference.py` for what the program says;
`padded.py` makes tensors of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from compiler.spec import ITEM_SIZES, Padding, TensorSpec

MAX_SHAPES = 64  # batch sizes times padded sizes: each is verified, timed and warmed up, on a GPU as a graph of its own
MASKS = ("BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "BF16", "FP32")

Specs = Sequence[TensorSpec]
Fault = tuple[tuple[str, ...], str]  # the keys that lead to it, within the padding, and the sentence


def find_faults(
    pad: Padding, inputs: Specs | None, outputs: Specs | None, max_batch_size: int | None, buckets: Sequence[int]
) -> Iterator[Fault]:
    """What does not fit. None: not known yet, and not looked at; so is an empty `buckets`."""
    if max_batch_size == 0:
        yield (), "it needs a batch dimension: remove it, or set max_batch_size above 0"
    for name, sizes in pad.dims.items():
        if list(sizes) != sorted(set(sizes)):
            yield ("dims", name), f"the sizes of '{name}' must rise, not {list(sizes)}"
        elif sizes[-1] < 2:
            yield ("dims", name), f"the largest size of '{name}' must be above 1: else it does not vary"
    yield from _dimension_faults(pad)
    for where, followed, specs in (("inputs", pad.inputs, inputs), ("outputs", pad.outputs, outputs)):
        for name, axes in followed.items():
            yield from _axes_faults(where, name, axes, pad, specs)
    yield from _mask_faults(pad, inputs)
    yield from _value_faults(pad, inputs)
    shapes = max(1, len(buckets)) * math.prod(len(sizes) for sizes in pad.dims.values())
    if shapes > MAX_SHAPES:
        yield (
            ("dims",),
            f"{len(buckets)} batch sizes times its sizes are {shapes} shapes, each of which is verified and warmed up: "
            f"at most {MAX_SHAPES} may be; name fewer sizes, or fewer batching.buckets",
        )


def limits(pad: Padding | None, inputs: Specs) -> dict[tuple[int, int], tuple[int, int]]:
    """How far each padded size may vary: position of an input, axis -> least and greatest size."""
    if pad is None:
        return {}
    return {
        (position, axis): (1, pad.dims[dimension][-1])
        for position, spec in enumerate(inputs)
        for axis, dimension in pad.inputs.get(spec.name, {}).items()
    }


def with_examples(pad: Padding, specs: Specs) -> tuple[TensorSpec, ...]:
    """`specs` with one example size for all that follow a dimension, and masks that let everything count.

    An owner's example stands; else it is a size that runs and is not the largest, so that another is left to compare.
    """
    chosen = {name: _example(sizes) for name, sizes in pad.dims.items()}
    for spec in reversed(specs):
        for axis, dimension in pad.inputs.get(spec.name, {}).items():
            example = spec.example_shape[axis] if spec.example_shape is not None else -1
            if 0 < example < pad.dims[dimension][-1]:
                chosen[dimension] = example
    ones = dict.fromkeys(pad.masks, (1.0, 1.0))
    return tuple(
        msgspec.structs.replace(spec, range=ones.get(spec.name, spec.range)) for spec in resize(pad, specs, chosen)
    )


def resize(pad: Padding, specs: Specs, sizes: Mapping[str, int]) -> tuple[TensorSpec, ...]:
    """`specs` whose example is of these sizes where they follow a dimension."""
    found = []
    for spec in specs:
        example = list(spec.example_shape or (-1,) * len(spec.shape))
        for axis, dimension in pad.inputs.get(spec.name, {}).items():
            example[axis] = sizes[dimension]
        is_padded = spec.name in pad.inputs
        found.append(msgspec.structs.replace(spec, example_shape=tuple(example)) if is_padded else spec)
    return tuple(found)


def plan_cases(
    pad: Padding | None, batches: Sequence[int], buckets: Sequence[int]
) -> list[tuple[int, tuple[int, ...]]]:
    """Batch and sizes of each golden case: every shape that is served; other batches at the largest sizes only."""
    if pad is None:
        return [(batch, ()) for batch in batches]
    return [(batch, sizes) for batch in batches for sizes in (pad.sizes if batch in buckets else pad.sizes[-1:])]


def pairs(pad: Padding) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Sizes, and larger ones to which they are padded, by dimension: one grows at a time, others are at their least.

    A size that runs grows to the next one, the least to the greatest, and one that does not run to the least.
    """
    least = {name: sizes[0] for name, sizes in pad.dims.items()}
    for name, sizes in pad.dims.items():
        grown = [*itertools.pairwise(sizes)]
        if len(sizes) > 2:
            grown.append((sizes[0], sizes[-1]))
        if sizes[0] > 1:
            grown.append((max(1, 2 * sizes[0] // 3), sizes[0]))
        for own, padded in grown:
            yield {**least, name: own}, {**least, name: padded}


def _example(sizes: Sequence[int]) -> int:
    return next((size for size in sizes[:-1] if size > 1), max(1, sizes[-1] - 1))


def _dimension_faults(pad: Padding) -> Iterator[Fault]:
    followed = {dimension for name, axes in pad.inputs.items() if name not in pad.masks for dimension in axes.values()}
    for name in pad.dims:
        if name not in followed:
            yield (
                ("dims", name),
                f"nothing says how large '{name}' is: name an input that has it, which is no mask, in inputs",
            )


def _axes_faults(where: str, name: str, axes: Mapping[int, str], pad: Padding, specs: Specs | None) -> Iterator[Fault]:
    spec = next((spec for spec in specs or () if spec.name == name), None)
    at, what = (where, name), where[:-1]
    if specs is not None and spec is None:
        yield at, f"'{name}' is no {what} of the model: its {where} are {', '.join(each.name for each in specs)}"
    for axis, dimension in axes.items():
        if dimension not in pad.dims:
            yield at, f"'{dimension}' is no dimension: those in dims are {', '.join(pad.dims)}"
        if axis < 1:
            yield at, f"axis {axis} of '{name}' cannot be padded: 0 is the batch, and the others are counted from 1"
        elif spec is not None and axis >= len(spec.shape):
            yield at, f"'{name}' has no axis {axis}: its shape is {list(spec.shape)}, and axis 0 is the batch"
        elif spec is not None and spec.shape[axis] != -1:
            yield (
                at,
                f"axis {axis} of '{name}' does not vary: its shape is {list(spec.shape)}; write -1 there, or remove it",
            )


def _mask_faults(pad: Padding, inputs: Specs | None) -> Iterator[Fault]:
    for name in pad.masks:
        if name not in pad.inputs:
            yield ("mask",), f"the mask '{name}' is not among its inputs: say there which axes it has"
            continue
        if name in pad.values:
            yield ("values", name), f"the mask '{name}' is 0 in the padding: remove it from values"
        spec = next((spec for spec in inputs or () if spec.name == name), None)
        if spec is None:
            continue
        if spec.datatype not in MASKS:
            yield ("mask",), f"the mask '{name}' is {spec.datatype}: it must be one of {', '.join(MASKS)}"
        if {0, *pad.inputs[name]} != set(range(len(spec.shape))):
            yield (
                ("mask",),
                f"the mask '{name}' has the shape {list(spec.shape)}: all axes but the batch must follow a dimension",
            )


def _value_faults(pad: Padding, inputs: Specs | None) -> Iterator[Fault]:
    for name, value in pad.values.items():
        if name not in pad.inputs:
            yield ("values", name), f"'{name}' is not padded: name it in inputs, or remove its value"
        spec = next((spec for spec in inputs or () if spec.name == name), None)
        if spec is not None and not _fits(spec.datatype, value):
            yield ("values", name), f"the value of '{name}' must be one of {spec.datatype}, not {value!r}"


def _fits(datatype: str, value: bool | int | float) -> bool:
    if datatype == "BOOL" or isinstance(value, bool):
        return datatype == "BOOL" and isinstance(value, bool)
    if datatype.startswith(("FP", "BF")):
        return True
    bits = 8 * ITEM_SIZES.get(datatype, 0)
    least, most = (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return isinstance(value, int) and bits > 0 and least <= value <= most
