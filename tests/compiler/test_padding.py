"""Padded sizes: what an owner may say of them, and that a model is found out whose answers depend on the padding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compiler import Artifact, Cache, Options, Target, backends, compile, find_source
from compiler.cases import read_case
from compiler.errors import LoadFailed
from compiler.golden import random_inputs
from compiler.jobs import Describe, Described, Interface, Place
from compiler.padded import cut_outputs, pad_inputs, served_inputs
from compiler.padding import find_faults, pairs, with_examples
from compiler.reference import describe
from compiler.spec import Padding, TensorSpec

IDS, MASK = TensorSpec("ids", "INT64", (-1, -1), range=(0, 9)), TensorSpec("mask", "INT64", (-1, -1))
LOGITS, MEAN = TensorSpec("logits", "FP32", (-1, -1, 3)), TensorSpec("mean", "FP32", (-1, 4))
PAD = Padding(
    dims={"length": (4, 8)},
    inputs={"ids": {1: "length"}, "mask": {1: "length"}},
    outputs={"logits": {1: "length"}},
    masks=("mask",),
)
OPTIONS = Options(inputs=(IDS, MASK), max_batch_size=2, backends=("eager",), pad=PAD)

TEXT = """
import torch
from torch import nn

class Text(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, ids, mask):
        tokens = self.embed(ids)
        scores = tokens @ tokens.transpose(1, 2)
        scores = scores.masked_fill(mask[:, None, :] == 0, -1e9)
        tokens = torch.softmax(scores, -1) @ tokens
        weights = {weights}
        return {{"logits": self.head(tokens), "mean": (tokens * weights).sum(1) / weights.sum(1)}}

def create_model():
    return Text()
"""
SEES = TEXT.format(weights="mask[:, :, None].float()")
IGNORES = TEXT.format(weights="torch.ones_like(tokens)")


@pytest.fixture
def attempt(write_model: Callable[..., Path], target: Target, cache: Cache) -> Callable[..., Artifact]:
    def compile_text(text: str, options: Options = OPTIONS) -> Artifact:
        return compile(find_source(write_model(text)), options, target, cache)

    return compile_text


def look_at(folder: Path, options: Options = OPTIONS, goldens: str = "") -> Described:
    """What the compiler makes of the model in `folder`, in this process."""
    return describe(Describe(Place(str(folder), str(folder), "cpu"), options, goldens), lambda _: None)


@pytest.fixture
def refusal(write_model: Callable[..., Path]) -> Callable[..., str]:
    """Why a model.py of that text cannot be served."""

    def describe_text(text: str, options: Options = OPTIONS) -> str:
        with pytest.raises(LoadFailed) as caught:
            look_at(write_model(text), options)
        return str(caught.value)

    return describe_text


def changed(**changes: Any) -> Options:
    return Options(inputs=(IDS, MASK), max_batch_size=2, backends=("eager",), pad=Padding(**{**parts(), **changes}))


def parts() -> dict[str, Any]:
    return {name: getattr(PAD, name) for name in PAD.__struct_fields__}


def test_every_shape_is_verified_and_timed_and_a_padded_batch_gives_what_each_row_gives_alone(
    attempt: Callable[..., Artifact],
) -> None:
    options = Options(inputs=(IDS, MASK), max_batch_size=2, backends=("eager", "torchscript"), pad=PAD)
    artifact = attempt(SEES, options)
    manifest = artifact.manifest
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [("logits", (-1, -1, 3)), ("mean", (-1, 4))]
    for rung in manifest.ladder:
        assert rung.outcome in ("chosen", "slower"), rung
        shapes = {(time.rows, time.sizes): time.milliseconds for time in rung.padded}
        assert sorted(shapes) == [(1, (4,)), (1, (8,)), (2, (4,)), (2, (8,))]
        assert rung.milliseconds[2] == pytest.approx((shapes[2, (4,)] + shapes[2, (8,)]) / 2)
    model = backends.load(artifact.folder, manifest, "cpu")
    interface = Interface((IDS, MASK), (LOGITS, MEAN), 2, (1, 2))
    ids = torch.randint(0, 10, (1, 3))
    inputs = ids, torch.ones_like(ids)
    padded = cut_outputs(interface, PAD, model(pad_inputs(interface, PAD, inputs, {"length": 8})), {"length": 3})
    for one, other in zip(model(inputs), padded, strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_that_ignores_its_mask_is_refused_unless_its_owner_accepts_that(
    write_model: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    reason = refusal(IGNORES)
    assert "(length 4 to 8): output 'mean' differs from the answer without padding by" in reason
    assert reason.endswith(
        "let it leave out what its mask 'mask' excludes, or serve it as it is with batching.pad.check: false"
    )
    assert look_at(write_model(IGNORES), changed(check=False)).interface.pad == changed(check=False).pad


def test_without_a_mask_the_model_has_to_know_what_padding_is(
    write_model: Callable[..., Path], refusal: Callable[..., str]
) -> None:
    text = TEXT.format(weights="(ids != 0)[:, :, None].float()").replace("mask[:, None, :]", "ids[:, None, :]")
    text = text.replace("def forward(self, ids, mask)", "def forward(self, ids)")
    ids = TensorSpec("ids", "INT64", (-1, -1), range=(1, 9))
    pad = Padding(PAD.dims, {"ids": {1: "length"}}, PAD.outputs)
    options = Options(inputs=(ids,), max_batch_size=2, backends=("eager",), pad=pad)
    assert look_at(write_model(text), options).interface.outputs == (LOGITS, MEAN)
    reason = refusal(text.replace("(ids != 0)[:, :, None].float()", "torch.ones_like(tokens)"), options)
    assert "let it take an input that says what is padding, and name that in batching.pad.mask" in reason


def test_a_program_says_how_long_it_may_be(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    exec(SEES, namespace)
    batch, length = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=2, max=8)
    example = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    shapes = {"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}}
    program = torch.export.export(namespace["create_model"]().eval(), example, dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    found = look_at(tmp_path, Options(max_batch_size=2, backends=("eager",), pad=PAD)).interface
    assert [spec.shape for spec in found.outputs] == [(-1, -1, 3), (-1, 4)]
    assert [spec.example_shape for spec in found.inputs] == [(2, 5), (2, 5)], "as it was exported"
    longer = Padding(**{**parts(), "dims": {"length": (4, 16)}})
    with pytest.raises(LoadFailed, match=r"cannot run on ids INT64\[2, 16\]"):
        look_at(tmp_path, Options(max_batch_size=2, backends=("eager",), pad=longer))


def test_rows_that_lie_beside_the_model_are_compared_at_their_own_length(write_model: Callable[..., Path]) -> None:
    folder = write_model(SEES)
    ids = torch.randint(0, 10, (6, 5))
    save_file({"ids": ids, "mask": torch.ones_like(ids)}, folder / "calibration.safetensors")
    cases = look_at(folder, goldens=str(folder / "goldens")).cases
    own = next(case for case in cases if case.label == "its own rows")
    assert read_case(own)[0][0].tolist() == ids[:2].tolist()
    served = [case for case in cases if case.sizes]
    assert [(case.batch, case.sizes) for case in served] == [(1, (4,)), (1, (8,)), (2, (4,)), (2, (8,))]
    assert all(case.is_foreign and case.timed for case in served)
    assert not own.is_foreign
    assert not own.timed


def test_an_output_that_grows_with_the_padding_has_to_be_named(refusal: Callable[..., str]) -> None:
    reason = refusal(SEES, changed(outputs={}))
    assert "'logits' with shape [2, 4, 3], and [2, 8, 3] when its input is padded (length 4 to 8): name its" in reason


def test_an_output_that_does_not_follow_is_found(refusal: Callable[..., str]) -> None:
    reason = refusal(SEES.replace("self.head(tokens)", "self.head(tokens)[:, 1:]"))
    assert "'logits' with shape [2, 7, 3] where length is 8: axis 1 does not have that size, so remove it" in reason


def test_a_model_that_cannot_be_that_long_is_told_its_input(refusal: Callable[..., str]) -> None:
    short = SEES.replace("tokens = self.embed(ids)", "tokens = self.embed(ids) + torch.ones(1, 6, 1)[:, :ids.shape[1]]")
    assert "cannot run on ids INT64[2, 8]" in refusal(short)


def test_what_the_model_says_is_compared_with_what_is_padded(refusal: Callable[..., str]) -> None:
    reason = refusal(SEES, changed(outputs={"logits": {1: "length"}, "mean": {1: "length"}}))
    assert reason.startswith("batching.pad.outputs.mean in model.yaml does not fit ")
    assert "axis 1 of 'mean' does not vary" in reason


@pytest.mark.parametrize(
    ("changes", "keys", "sentence"),
    [
        ({"dims": {"length": (8, 4)}}, ("dims", "length"), "must rise, not [8, 4]"),
        ({"dims": {"length": (1,)}}, ("dims", "length"), "must be above 1"),
        ({"dims": {"length": (4,), "width": (4,)}}, ("dims", "width"), "nothing says how large 'width' is"),
        ({"inputs": {"ids": {1: "size"}}}, ("inputs", "ids"), "'size' is no dimension: those in dims are length"),
        ({"inputs": {"idz": {1: "length"}}}, ("inputs", "idz"), "'idz' is no input of the model: its inputs are ids"),
        ({"inputs": {"ids": {0: "length"}}}, ("inputs", "ids"), "0 is the batch"),
        ({"inputs": {"ids": {2: "length"}}}, ("inputs", "ids"), "'ids' has no axis 2"),
        ({"outputs": {"logits": {2: "length"}}}, ("outputs", "logits"), "axis 2 of 'logits' does not vary"),
        ({"masks": ("no",)}, ("mask",), "'no' is not among its inputs"),
        ({"masks": ("ids", "mask")}, ("dims", "length"), "nothing says how large"),
        ({"values": {"mask": 1}}, ("values", "mask"), "is 0 in the padding"),
        ({"values": {"ids": 0.5}}, ("values", "ids"), "must be one of INT64, not 0.5"),
        ({"values": {"mean": 1}}, ("values", "mean"), "'mean' is not padded"),
        ({"dims": {"length": tuple(range(1, 40))}}, ("dims",), "78 shapes"),
    ],
)
def test_a_mistake_is_told_with_its_place(changes: dict[str, Any], keys: tuple[str, ...], sentence: str) -> None:
    pad = Padding(**{**parts(), **changes})
    found = dict(find_faults(pad, (IDS, MASK), (LOGITS, MEAN), 2, (1, 2)))
    assert sentence in found[keys], found


def test_a_mask_is_a_number_for_each_element() -> None:
    for spec, sentence in (
        (TensorSpec("mask", "UINT64", (-1, -1)), "it must be one of BOOL"),
        (TensorSpec("mask", "BOOL", (-1, -1, 2)), "all axes but the batch must follow"),
    ):
        assert sentence in dict(find_faults(PAD, (IDS, spec), None, None, ()))[("mask",)]
    assert not [*find_faults(PAD, (IDS, MASK), (LOGITS, MEAN), 2, (1, 2))]
    assert "needs a batch dimension" in dict(find_faults(PAD, None, None, 0, ()))[()]


def test_examples_agree_and_leave_a_larger_size_to_compare_with() -> None:
    ids, mask = with_examples(PAD, (IDS, MASK))
    assert (ids.example_shape, mask.example_shape, mask.range) == ((-1, 4), (-1, 4), (1.0, 1.0))
    declared = TensorSpec("ids", "INT64", (-1, -1), example_shape=(-1, 5))
    assert [spec.example_shape for spec in with_examples(PAD, (declared, MASK))] == [(-1, 5), (-1, 5)]
    assert [spec.example_shape for spec in with_examples(Padding({"length": (6,)}, PAD.inputs), (IDS,))] == [(-1, 5)]
    assert all(bool(torch.all(tensor == 1)) for tensor in random_inputs((mask,), 3, seed=0))


def test_golden_rows_are_as_they_are_served() -> None:
    interface = Interface((IDS, MASK), (LOGITS, MEAN), 8, (8,))
    pad = Padding(PAD.dims, PAD.inputs, masks=("mask",), values={"ids": 7})
    ids, mask = served_inputs(
        Interface(with_examples(pad, interface.inputs), (), 8, (8,)), pad, batch=8, sizes=(8,), seed=0
    )
    lengths = mask.sum(1).tolist()
    assert lengths[0] == 8
    assert min(lengths) >= 1
    assert len(set(lengths)) > 3
    for row, length in enumerate(lengths):
        assert mask[row].tolist() == [1] * length + [0] * (8 - length)
        assert ids[row, length:].tolist() == [7] * (8 - length)


def test_each_dimension_grows_by_itself() -> None:
    two = Padding({"a": (2, 4, 8), "b": (3,)}, {"x": {1: "a", 2: "b"}})
    grown = [(own["a"], padded["a"], own["b"], padded["b"]) for own, padded in pairs(two)]
    assert grown == [(2, 4, 3, 3), (4, 8, 3, 3), (2, 8, 3, 3), (1, 2, 3, 3), (2, 2, 2, 3)]
