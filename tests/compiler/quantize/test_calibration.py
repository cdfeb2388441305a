"""Calibration data and labelled samples: every mistake is a sentence that names file, tensor and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from compiler.errors import LoadFailed
from compiler.jobs import Interface
from compiler.quantize.calibration import MAX_ROWS, has_calibration, read_calibration, read_samples
from compiler.spec import TensorSpec

IDS, MASK = TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "FP32", (-1, 3))
TWO = Interface((IDS, MASK), (), 4, (1, 4))
UNBATCHED = Interface((TensorSpec("wave", "FP32", (5,)),), (), 0, ())


def rows(count: int = 10, **changes: Tensor) -> dict[str, Tensor]:
    return {"ids": torch.ones(count, 7, dtype=torch.int64), "mask": torch.ones(count, 3), **changes}


def write_code(folder: Path, body: str) -> None:
    (folder / "calibration.py").write_text(f"import torch\n\n{body}\n")


def test_rows_are_read_in_the_order_of_the_inputs_and_no_more_at_once_than_the_model_serves(tmp_path: Path) -> None:
    assert not has_calibration(tmp_path)
    save_file(rows(), tmp_path / "calibration.safetensors")
    assert has_calibration(tmp_path)
    batches = read_calibration(tmp_path, TWO)
    assert [len(ids) for ids, _ in batches] == [4, 4, 2]
    assert [tuple(mask.shape[1:]) for _, mask in batches] == [(3,)] * 3


@pytest.mark.parametrize(
    "batch",
    ["{'mask': torch.ones(2, 3), 'ids': torch.ones(2, 7).long()}", "(torch.ones(2, 7).long(), torch.ones(2, 3))"],
)
def test_code_gives_batches_by_name_or_by_order(tmp_path: Path, batch: str) -> None:
    write_code(tmp_path, f"def create_calibration():\n    while True:\n        yield {batch}")
    batches = read_calibration(tmp_path, TWO)
    assert batches[0][0].dtype == torch.int64
    assert sum(len(ids) for ids, _ in batches) == MAX_ROWS  # a loader need not end


def test_without_a_batch_dimension_a_row_is_a_call(tmp_path: Path) -> None:
    save_file({"wave": torch.ones(3, 5)}, tmp_path / "calibration.safetensors")
    assert [tuple(wave.shape) for (wave,) in read_calibration(tmp_path, UNBATCHED)] == [(5,)] * 3
    (tmp_path / "calibration.safetensors").unlink()
    write_code(tmp_path, "def create_calibration():\n    return [torch.ones(5)] * 2")
    assert [tuple(wave.shape) for (wave,) in read_calibration(tmp_path, UNBATCHED)] == [(5,)] * 2


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"ids": torch.ones(2, 7).long()}, "lacks 'mask': it must hold one tensor for each input of the model"),
        (rows(extra=torch.ones(1)), "has 'extra', which is no input"),
        (rows(ids=torch.ones(10, 7)), r"has 'ids' as FP32\[10, 7\], but the model takes INT64\[-1, -1\]"),
        (rows(mask=torch.ones(10, 4)), r"has 'mask' as FP32\[10, 4\], but the model takes FP32\[-1, 3\].*as clients"),
        (rows(mask=torch.ones(10)), r"has 'mask' as FP32\[10\]"),
        (rows(mask=torch.ones(9, 3)), "has inputs of 9 and 10 rows"),
        (rows(0), "has no rows in 'ids': a hundred or more are needed"),
        (rows(mask=torch.full((10, 3), float("nan"))), "has NaN or infinity in 'mask'"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, tensors: Mapping[str, Tensor], sentence: str) -> None:
    save_file(dict(tensors), tmp_path / "calibration.safetensors")
    with pytest.raises(LoadFailed, match=f"calibration.safetensors.*{sentence}"):
        read_calibration(tmp_path, TWO)


def test_what_is_no_safetensors_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "calibration.safetensors").write_bytes(b"rubbish")
    with pytest.raises(LoadFailed, match=r"cannot be read: .*write it with safetensors\.torch\.save_file"):
        read_calibration(tmp_path, TWO)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("x = 1", r"does not define create_calibration\(\)"),
        ("def create_calibration():\n    return 3", r"returns int from create_calibration\(\)"),
        ("def create_calibration():\n    return []", "gives no batch"),
        ("def create_calibration():\n    return [3]", "a batch of type int"),
        (
            "def create_calibration():\n    return [(torch.ones(2, 3),)]",
            "a batch of 1 tensors, but .* 2 inputs: ids, mask",
        ),
        (
            "def create_calibration():\n    return [([1], torch.ones(1, 3))]",
            "gives 'ids' as list: make it a torch.Tensor",
        ),
        ("def create_calibration():\n    yield open('none')", r"cannot be run: FileNotFoundError.*\(line 4\)"),
        ("import no_such_module", r"cannot be run: ModuleNotFoundError.*\(line 3\)"),
        ("raise SystemExit(3)", r"cannot be run: SystemExit: 3 \(line 3\)"),
    ],
)
def test_mistakes_in_the_code(tmp_path: Path, body: str, sentence: str) -> None:
    write_code(tmp_path, body)
    with pytest.raises(LoadFailed, match=f"calibration.py.*{sentence}"):
        read_calibration(tmp_path, TWO)


def test_both_forms_at_once_are_refused(tmp_path: Path) -> None:
    save_file(rows(), tmp_path / "calibration.safetensors")
    write_code(tmp_path, "")
    with pytest.raises(LoadFailed, match=r"both .* lie beside the model: keep one"):
        read_calibration(tmp_path, TWO)


def test_samples_are_all_rows_with_their_classes(tmp_path: Path) -> None:
    assert read_samples(tmp_path, TWO) is None
    save_file({**rows(), "label": torch.arange(10)}, tmp_path / "samples.safetensors")
    samples = read_samples(tmp_path, TWO)
    assert samples is not None
    (ids, mask), label = samples
    assert (ids.shape, mask.shape, label.tolist()) == ((10, 7), (10, 3), list(range(10)))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (rows(), "lacks the tensor 'label': INT64"),
        ({**rows(), "label": torch.ones(10)}, r"has 'label' as FP32\[10\]: it must be INT64 \[rows\]"),
        ({**rows(), "label": torch.ones(9).long()}, "has 10 rows in 'ids' but 9 labels"),
        ({"label": torch.ones(9).long()}, "lacks 'ids'"),
    ],
)
def test_mistakes_in_the_samples(tmp_path: Path, tensors: Mapping[str, Tensor], sentence: str) -> None:
    save_file(dict(tensors), tmp_path / "samples.safetensors")
    with pytest.raises(LoadFailed, match=f"samples.safetensors {sentence}"):
        read_samples(tmp_path, TWO)


def test_an_input_called_label_leaves_no_name_for_the_classes(tmp_path: Path) -> None:
    save_file({"label": torch.ones(1).long()}, tmp_path / "samples.safetensors")
    with pytest.raises(LoadFailed, match="needs the name 'label' for the classes"):
        read_samples(tmp_path, Interface((TensorSpec("label", "INT64", (-1,)),), (), 4, (1, 4)))
