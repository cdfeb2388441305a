"""Padding and cutting are exact, whatever the datatype and the sizes; masks count what is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.spec import ITEM_SIZES, Padding, TensorSpec
from service.engine.company import Room
from service.engine.padder import Padder
from service.errors import InvalidInput
from service.tensors import NUMPY_TYPES

PAD = Padding(
    {"height": (2, 4), "length": (4, 8)},
    {"ids": {1: "length"}, "mask": {1: "length"}, "image": {1: "height", 3: "length"}},
    {"same": {1: "length"}},
    ("mask",),
    {"ids": 7},
)
INPUTS = (
    TensorSpec("ids", "INT64", (-1, -1)),
    TensorSpec("mask", "BOOL", (-1, -1)),
    TensorSpec("image", "FP32", (-1, -1, 2, -1)),
    TensorSpec("scale", "FP32", (-1, 1)),
)
OUTPUTS = (TensorSpec("same", "INT64", (-1, -1)), TensorSpec("whole", "FP32", (-1, 1)))


def padder() -> Padder:
    return Padder(PAD, INPUTS, OUTPUTS, "text")


def request(rows: int, length: int, height: int, number: int) -> list[np.ndarray[Any, Any]]:
    return [
        np.full((rows, length), number, np.int64),
        np.ones((rows, length), np.bool_),
        np.full((rows, height, 2, length), number, np.float32),
        np.full((rows, 1), number, np.float32),
    ]


def views(arrays: list[np.ndarray[Any, Any]]) -> tuple[tuple[tuple[int, ...], ...], list[memoryview]]:
    return tuple(array.shape for array in arrays), [memoryview(array.tobytes()) for array in arrays]


def joined(parts: list[memoryview], shape: tuple[int, ...], datatype: str) -> np.ndarray[Any, Any]:
    """As the staging memory lays them: one after the other, the rest zeros."""
    data = b"".join(parts)
    count = int(np.prod(shape))
    whole = np.zeros(count, NUMPY_TYPES[datatype])
    found = np.frombuffer(data, NUMPY_TYPES[datatype])
    whole[: len(found)] = found
    return whole.reshape(shape)


sizes = st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 4))


@given(st.lists(sizes, min_size=1, max_size=4), st.integers(0, 3))
def test_what_is_padded_and_cut_is_what_came(wanted: list[tuple[int, int, int]], spare: int) -> None:
    subject = padder()
    requests = [request(*each, number=index + 1) for index, each in enumerate(wanted)]
    given_ = [views(arrays) for arrays in requests]
    rooms = [subject.room(shapes) for shapes, _ in given_]
    room = rooms[0]
    for each in rooms:
        room = room.join(each)
    rows = [each[0] for each in wanted]
    bucket = sum(rows) + spare
    stacked = subject.stack(given_, bucket, room.sizes)
    laid = [
        joined(parts, shape, spec.datatype)
        for parts, shape, spec in zip(stacked.parts, stacked.shapes, INPUTS, strict=True)
    ]
    height, length = room.sizes
    assert [array.shape for array in laid] == [
        (bucket, length),
        (bucket, length),
        (bucket, height, 2, length),
        (bucket, 1),
    ]
    at = 0
    for number, (count, own, high) in enumerate(wanted, 1):
        ids, mask, image, scale = (array[at : at + count] for array in laid)
        assert (ids[:, :own] == number).all()
        assert (ids[:, own:] == 7).all(), "what is beyond is the value that was asked for"
        assert mask.sum(axis=1).tolist() == [own] * count
        assert image.sum() == number * count * high * 2 * own
        assert (scale == number).all()
        at += count
    assert laid[1][at:].all(), "rows of nobody count in full: attention to nothing is not a number"
    own_sizes = [subject.own_sizes(shapes) for shapes, _ in given_]
    output = laid[0], memoryview(laid[0].tobytes())
    answers = subject.unstack(0, (output[0].shape, output[1]), rows, (bucket, room.sizes), own_sizes)
    for (shape, data), arrays in zip(answers, requests, strict=True):
        assert np.array_equal(np.frombuffer(data, np.int64).reshape(shape), arrays[0])
    whole = subject.unstack(1, (laid[3].shape, memoryview(laid[3].tobytes())), rows, (bucket, room.sizes), own_sizes)
    assert [shape for shape, _ in whole] == [(count, 1) for count in rows]
    elements = sum(array.size for arrays in requests for array in arrays[:3])
    assert subject.count(stacked.shapes, [shapes for shapes, _ in given_]) == (
        elements,
        sum(array.size for array in laid[:3]) - elements,
    )


@pytest.mark.parametrize("datatype", sorted(ITEM_SIZES))
def test_every_datatype_can_be_padded(datatype: str) -> None:
    spec = TensorSpec("x", datatype, (-1, -1))
    value = datatype == "BOOL" or 1
    pad = Padding({"length": (4,)}, {"x": {1: "length"}}, {"x": {1: "length"}}, values={"x": value})
    subject, size = Padder(pad, (spec,), (spec,), "typed"), ITEM_SIZES[datatype]
    data = memoryview(bytes(3 * size))
    stacked = subject.stack([([(1, 3)], [data])], 1, (4,))
    (part,) = stacked.parts[0]
    assert bytes(part[: 3 * size]) == bytes(data)
    assert any(part[3 * size :]), "one is not nothing"
    ((shape, cut),) = subject.unstack(0, ((1, 4), part), [1], (1, (4,)), [(3,)])
    assert (shape, bytes(cut)) == ((1, 3), bytes(data))


def test_what_has_its_size_already_is_not_copied() -> None:
    subject = padder()
    shapes, tensors = views(request(1, 8, 4, 1))
    stacked = subject.stack([(shapes, tensors)], 1, (4, 8))
    assert all(part is tensor for (part,), tensor in zip(stacked.parts, tensors, strict=True))


def test_the_room_is_the_next_sizes_and_what_else_must_agree() -> None:
    subject = padder()
    shapes, _ = views(request(2, 5, 1, 1))
    room = subject.room(shapes)
    assert room.sizes == (2, 8)
    assert room == subject.room(views(request(1, 8, 2, 1))[0]), "rows are no part of it"
    assert subject.room(shapes, apart=17) == Room((2, 8), (room.rest, 17))
    with pytest.raises(InvalidInput, match="must be from 1 to 8 for model 'text', got 9"):
        subject.room(views(request(1, 9, 1, 1))[0])


def test_an_output_of_other_sizes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"shape \[1, 6\] for a batch padded to \[4, 8\]"):
        padder().unstack(0, ((1, 6), memoryview(bytes(48))), [1], (1, (4, 8)), [(4, 5)])
