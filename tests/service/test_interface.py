"""Clients see what the steps take and give, in place of what the model does."""

from typing import Any

from msgspec import structs

from compiler.spec import Padding, TensorSpec
from service.checks import check_inputs
from service.interface import with_steps
from service.repository.catalog import Entry
from service.repository.model_config import Batching
from service.repository.scheduling import Generation, Steps
from service.tensors import Tensor, pack_bytes
from tests.fakes import IMAGE_ENTRY, entry

TEXT, ONE, ANSWER = (
    TensorSpec("text", "BYTES", (-1, 1)),
    TensorSpec("text", "BYTES", (1,)),
    TensorSpec("answer", "BYTES", (-1, 1)),
)


def seen(described: Entry | None = None, **steps: Any) -> Entry:
    return with_steps(entry(steps=Steps(**steps)) if described is None else described)


def test_a_model_without_steps_is_seen_as_it_is() -> None:
    assert with_steps(entry()) == entry()


def test_steps_before_and_after_take_the_place_of_what_they_stand_before() -> None:
    both = seen(preprocess=(TEXT,), postprocess=(ANSWER,))
    assert (both.inputs, both.outputs, both.max_batch_size, both.buckets) == ((TEXT,), (ANSWER,), 8, (1, 2, 4, 8))
    assert seen(preprocess=(TEXT,)).outputs == entry().outputs
    assert seen(postprocess=(ANSWER,)).inputs == entry().inputs
    assert both.steps is not None
    assert (both.steps.model_inputs, both.steps.model_outputs) == (entry().inputs, entry().outputs)


def test_a_request_is_one_thing_where_it_has_no_rows() -> None:
    one = seen(preprocess=(ONE,))
    assert (one.max_batch_size, one.buckets) == (0, ())
    generated = seen(generate=Generation((TEXT,), (ANSWER,)))
    assert (generated.inputs, generated.max_batch_size, generated.is_decoupled) == ((TEXT,), 0, True)


def test_pictures_and_labels_belong_to_the_tensors_that_are_still_seen() -> None:
    def picture(**steps: Any) -> Entry:
        return Entry(
            **{**{name: getattr(IMAGE_ENTRY, name) for name in Entry.__struct_fields__}, "steps": Steps(**steps)}
        )

    after = seen(picture(postprocess=(ANSWER,)))
    assert (bool(after.images), after.labels) == (True, {})
    before = seen(picture(preprocess=(TEXT,)))
    assert (bool(before.images), bool(before.labels)) == (False, True)


def test_what_python_makes_the_models_inputs_of_is_not_padded() -> None:
    pad = Padding({"length": (4, 8)}, {"text": {1: "length"}, "mask": {1: "length"}}, masks=("mask",))
    ids, mask = TensorSpec("text", "INT64", (-1, -1)), TensorSpec("mask", "INT64", (-1, -1))
    described = entry(inputs=(ids, mask), batching=Batching(pad=pad))
    before = with_steps(structs.replace(described, steps=Steps(preprocess=(TensorSpec("text", "BYTES", (-1,)),))))
    assert (before.pad, before.optional, before.batching.pad) == (None, set(), pad)
    assert check_inputs((Tensor("text", "BYTES", (2,), pack_bytes([b"a", b"b"])),), before) == 2
    assert with_steps(structs.replace(described, steps=Steps(postprocess=(ANSWER,)))).pad == pad
