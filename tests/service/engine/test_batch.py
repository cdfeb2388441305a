"""Requests become one batch, and the batch becomes their answers."""

import pytest

from service.engine.batch import stack, unstack


def test_stack_groups_by_input_and_pads_the_shape() -> None:
    one = ([(2, 3), (2,)], [memoryview(b"aaaaaa"), memoryview(b"11")])
    two = ([(1, 3), (1,)], [memoryview(b"bbb"), memoryview(b"2")])
    stacked = stack([one, two], bucket=4, batched=True)
    assert stacked.shapes == [(4, 3), (4,)]
    assert [[bytes(part) for part in parts] for parts in stacked.parts] == [[b"aaaaaa", b"bbb"], [b"11", b"2"]]


def test_without_batch_dimension_the_shape_stays() -> None:
    assert stack([([(5, 3)], [memoryview(bytes(15))])], bucket=1, batched=False).shapes == [(5, 3)]


def test_unstack_gives_each_request_its_rows_and_drops_the_padding() -> None:
    parts = unstack((4, 2), memoryview(b"aabbccxx"), rows=[2, 1], bucket=4)
    assert [(shape, bytes(data)) for shape, data in parts] == [((2, 2), b"aabb"), ((1, 2), b"cc")]


def test_an_output_that_lost_the_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"shape \[1, 2\] for a batch of 4"):
        unstack((1, 2), memoryview(b"aa"), rows=[4], bucket=4)
