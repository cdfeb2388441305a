from __future__ import annotations

import pytest

from compiler.errors import LoadFailed
from compiler.resolve import Signature, resolve_buckets, resolve_inputs, resolve_outputs
from compiler.spec import Options, TensorSpec

IMAGE = TensorSpec("image", "FP32", (-1, 3, 8, 8))
PROGRAM = Signature(inputs=(IMAGE,), outputs=(TensorSpec("output", "FP32", (-1, 10)),), batch_limit=16)


def test_a_program_needs_no_declaration() -> None:
    interface = resolve_inputs(Options(), PROGRAM, "model.pt2")
    assert (interface.inputs, interface.max_batch_size, interface.buckets) == ((IMAGE,), 16, (1, 2, 4, 8, 16))


def test_a_program_without_bound_gets_the_default() -> None:
    program = Signature(PROGRAM.inputs, PROGRAM.outputs)
    assert resolve_inputs(Options(), program, "model.pt2").max_batch_size == 64


def test_a_static_program_has_no_batch() -> None:
    program = Signature(
        (TensorSpec("x", "FP32", (1, 3)),), (), why_no_batch="the first dimension of input 'x' is fixed"
    )
    interface = resolve_inputs(Options(), program, "model.pt2")
    assert (interface.max_batch_size, interface.buckets) == (0, ())
    with pytest.raises(
        LoadFailed, match=r"max_batch_size 4, but the first dimension of input 'x' is fixed in model.pt2"
    ):
        resolve_inputs(Options(max_batch_size=4), program, "model.pt2")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (Options(max_batch_size=32), "sets max_batch_size 32, but model.pt2 was exported for batches up to 16"),
        (Options(inputs=(TensorSpec("imag", "FP32", (-1, 3, 8, 8)),)), "did you mean 'image'"),
        (Options(inputs=(TensorSpec("image", "FP16", (-1, 3, 8, 8)),)), "as FP16, but in model.pt2 it is FP32"),
        (Options(inputs=(TensorSpec("image", "FP32", (3, 8, 8)),)), "4 dimensions"),
        (Options(inputs=(TensorSpec("image", "FP32", (-1, 1, 8, 8)),)), r"\[-1, 1, 8, 8\], but in model.pt2"),
        (Options(inputs=(TensorSpec("image", "FP31", (-1, 3, 8, 8)),)), "FP31: torch has BOOL"),
        (Options(inputs=(IMAGE, IMAGE)), "declares the input 'image' twice"),
        (Options(buckets=(4, 2)), "buckets"),
    ],
)
def test_contradictions_name_both_sides(options: Options, sentence: str) -> None:
    with pytest.raises(LoadFailed, match=sentence):
        resolve_inputs(options, PROGRAM, "model.pt2")


def test_without_a_program_inputs_must_be_declared() -> None:
    with pytest.raises(LoadFailed, match="declare its inputs"):
        resolve_inputs(Options(), None, "model.py")


def test_an_example_may_leave_the_batch_out() -> None:
    spec = TensorSpec("ids", "INT64", (-1, -1), example_shape=(128,))
    assert resolve_inputs(Options(inputs=(spec,)), None, "model.py").inputs[0].example_shape == (-1, 128)
    wrong = TensorSpec("ids", "INT64", (-1, 7), example_shape=(1, 8))
    with pytest.raises(LoadFailed, match="does not fit"):
        resolve_inputs(Options(inputs=(wrong,)), None, "model.py")


@pytest.mark.parametrize(("size", "buckets"), [(1, (1,)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (0, ())])
def test_buckets_are_powers_of_two_and_the_largest(size: int, buckets: tuple[int, ...]) -> None:
    assert resolve_buckets(None, size) == buckets


def test_declared_outputs_rename_a_tuple_and_select_from_a_dict() -> None:
    seen = (TensorSpec("output_0", "FP32", (-1, 10)), TensorSpec("output_1", "INT64", (-1,)))
    declared = (TensorSpec("logits", "FP32", (-1, 10)), TensorSpec("best", "INT64", (-1,)))
    assert [spec.name for spec in resolve_outputs(declared, seen, False, "model.py")] == ["logits", "best"]
    assert resolve_outputs((seen[1],), seen, True, "model.py") == (seen[1],)
    with pytest.raises(LoadFailed, match=r"declares the output 'best', but model.py returns output_0, output_1"):
        resolve_outputs(declared[1:], seen, True, "model.py")
    with pytest.raises(LoadFailed, match=r"declares 1 outputs, but model.py returns 2"):
        resolve_outputs(declared[:1], seen, False, "model.py")
