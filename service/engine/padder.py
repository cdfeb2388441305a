"""Requests of other sizes to one padded batch, and that batch back to the answers of its requests, cut to their sizes.

Pure on shapes and buffers; knows nothing of torch. `batch.py` is the same where nothing is padded, `company.py` decides
who shares a batch, `models.py` calls it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from compiler.spec import ITEM_SIZES, Padding, TensorSpec
from service.engine.batch import Stacked, unstack
from service.engine.company import Room, Sizes
from service.padded_sizes import read_sizes
from service.tensors import NUMPY_TYPES, float32_to_bf16

Shape = tuple[int, ...]

MAX_KNOWN = 4096  # sets of shapes; a request has rows and sizes of its own, and few differ in more


class _Padded:
    """One tensor that follows dimensions: axis -> the position of its dimension. Elements are moved as plain bits."""

    def __init__(self, spec: TensorSpec, axes: Mapping[int, int], value: bool | int | float, is_mask: bool) -> None:
        self._axes = axes
        self._begins_rows = tuple(axes) == (1,)  # what there is of a row is its beginning, then comes the padding
        self._bits = np.dtype(f"<u{ITEM_SIZES[spec.datatype]}")
        self._value = _bits_of(spec.datatype, value, self._bits)
        # Rows without a request count in full: what attends to nothing gives NaN, which a whole batch may suffer from.
        self._filler = _bits_of(spec.datatype, 1, self._bits) if is_mask else self._value

    def shape(self, shape: Shape, sizes: Sizes) -> Shape:
        """`shape` with these sizes."""
        axes = self._axes
        return tuple([sizes[axes[axis]] if axis in axes else size for axis, size in enumerate(shape)])

    def lay(self, requests: Sequence[tuple[memoryview, Shape]], shape: Shape) -> list[memoryview]:
        """The bytes of a batch of this shape, of (bytes, shape) of each request; uncopied where nothing is padded."""
        used, row = sum([given[0] for _, given in requests]), shape[1:]
        if all(given[1:] == row for _, given in requests):
            empty = shape[0] - used
            filler = [_bytes_of(np.full((empty, *row), self._filler, self._bits))] if empty else []
            return [*(data for data, _ in requests), *filler]
        whole = np.full(shape, self._value, self._bits)
        whole[used:] = self._filler
        if self._begins_rows:
            self._lay_rows(requests, _bytes_of(whole), self._bits.itemsize * math.prod(row))
        else:
            at = 0
            for data, given in requests:
                place = slice(at, at + given[0]), *map(slice, given[1:])
                whole[place] = np.frombuffer(data, self._bits).reshape(given)
                at += given[0]
        return [_bytes_of(whole)]

    def _lay_rows(self, requests: Sequence[tuple[memoryview, Shape]], whole: memoryview, row_bytes: int) -> None:
        at = 0
        for data, given in requests:
            own = len(data) // given[0]
            for begin in range(0, len(data), own or 1):
                whole[at : at + own] = data[begin : begin + own]
                at += row_bytes

    def cut(self, data: memoryview, shape: Shape, sizes: Sizes) -> tuple[Shape, memoryview]:
        """The first `sizes` of it; uncopied where they lie side by side."""
        wanted = self.shape(shape, sizes)
        if wanted == shape:
            return shape, data
        if self._begins_rows and shape[0] == 1:
            return wanted, data[: self._bits.itemsize * math.prod(wanted)]
        whole = np.frombuffer(data, self._bits).reshape(shape)
        return wanted, _bytes_of(np.ascontiguousarray(whole[tuple(map(slice, wanted))]))


class Padder:
    """Of one model. `inputs` and `outputs` are those of the artifact, in its order."""

    def __init__(self, pad: Padding, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], model: str) -> None:
        self._pad = pad
        self._model = model
        self._names = [spec.name for spec in inputs]
        place = {name: index for index, name in enumerate(pad.dims)}
        self._inputs = [_padded(pad, spec, pad.inputs.get(spec.name, {}), place) for spec in inputs]
        self._outputs = [_padded(pad, spec, pad.outputs.get(spec.name, {}), place) for spec in outputs]
        self._steps = tuple(pad.dims.values())
        self._known: dict[tuple[Shape, ...], tuple[Sizes, Room]] = {}

    def own_sizes(self, shapes: tuple[Shape, ...]) -> Sizes:
        """A request's own sizes, by its inputs' shapes. Raises InvalidInput where the model does not take them."""
        return (self._known.get(shapes) or self._look_at(shapes))[0]

    def room(self, shapes: tuple[Shape, ...], apart: Hashable = None) -> Room:
        """What a request takes. Those with another `apart` do not share a batch. Raises InvalidInput."""
        room = (self._known.get(shapes) or self._look_at(shapes))[1]
        return room if apart is None else Room(room.sizes, (room.rest, apart))

    def _look_at(self, shapes: tuple[Shape, ...]) -> tuple[Sizes, Room]:
        """Own sizes and room of a request with these shapes, remembered: there are few lengths and many requests."""
        named = read_sizes(self._pad, zip(self._names, shapes, strict=True), self._model)
        sizes = tuple(named[name] for name in self._pad.dims)
        padded = tuple(
            next(step for step in steps if step >= size) for steps, size in zip(self._steps, sizes, strict=True)
        )
        rest = tuple(
            shape[1:] if one is None else one.shape(shape, (-1,) * len(sizes))[1:]
            for one, shape in zip(self._inputs, shapes, strict=True)
        )
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        found = self._known[shapes] = sizes, Room(padded, rest)
        return found

    def stack(
        self, requests: Sequence[tuple[Sequence[Shape], Sequence[memoryview]]], bucket: int, sizes: Sizes
    ) -> Stacked:
        """`requests` are (shapes, tensors), one of each per input."""
        parts: list[list[memoryview]] = []
        shapes: list[Shape] = []
        for index, one in enumerate(self._inputs):
            first = requests[0][0][index]
            if one is None:
                parts.append([tensors[index] for _, tensors in requests])
                shapes.append((bucket, *first[1:]))
                continue
            shapes.append(one.shape((bucket, *first[1:]), sizes))
            parts.append(one.lay([(tensors[index], given[index]) for given, tensors in requests], shapes[-1]))
        return Stacked(parts, shapes)

    def unstack(
        self,
        index: int,
        batch: tuple[Shape, memoryview],
        rows: Sequence[int],
        room: tuple[int, Sizes],
        own: Sequence[Sizes],
    ) -> list[tuple[Shape, memoryview]]:
        """The output of this index, of a batch in a room of (bucket, sizes), as (shape, bytes) per request.

        `own` are the sizes of each. Raises ValueError where the output has not the batch's rows and sizes.
        """
        (shape, data), (bucket, sizes), one = batch, room, self._outputs[index]
        found = unstack(shape, data, rows, bucket)
        if one is None:
            return found
        if one.shape(shape, sizes) != shape:
            raise ValueError(f"an output has shape {list(shape)} for a batch padded to {list(sizes)}")
        return [one.cut(part, given, its) for (given, part), its in zip(found, own, strict=True)]

    def count(self, shapes: Sequence[Shape], requests: Sequence[Sequence[Shape]]) -> tuple[int, int]:
        """Elements of a batch, inputs that are not padded left out: those of requests, and those of padding."""
        own = whole = 0
        for index, one in enumerate(self._inputs):
            if one is not None:
                whole += math.prod(shapes[index])
                own += sum([math.prod(given[index]) for given in requests])
        return own, whole - own


def _padded(pad: Padding, spec: TensorSpec, axes: Mapping[int, str], place: Mapping[str, int]) -> _Padded | None:
    if not axes:
        return None
    positions = {axis: place[name] for axis, name in axes.items()}
    return _Padded(spec, positions, pad.values.get(spec.name, 0), spec.name in pad.masks)


def _bits_of(datatype: str, value: bool | int | float, bits: np.dtype[Any]) -> Any:
    if datatype == "BF16":
        return np.frombuffer(float32_to_bf16(np.full(1, value, np.float32)), bits)[0]
    return np.full(1, value, NUMPY_TYPES[datatype]).view(bits)[0]


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
