"""The whole road through the public door, with real builder processes; the slow backend twice only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from compiler import Artifact, Cache, Options, Progress, Target, compile, find_source
from compiler.errors import LoadFailed
from compiler.jobs import Describe, Interface, Place
from compiler.load import open_model
from compiler.lower import lower
from compiler.reference import describe
from compiler.spec import TensorSpec
from tests.compiler.attempts import FAST, odd, outcomes, run

CNN = """
import torch
from torch import nn

class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, image):
        y = nn.functional.max_pool2d(torch.relu(self.norm(self.conv(image.float() / 255))), 2)
        logits = self.head(y.reshape(image.shape[0], -1))
        return {"logits": logits, "best": logits.argmax(1)}

def create_model():
    return Cnn()
"""


def test_a_factory_with_all_backends_and_a_hit_the_second_time(
    write_model: Callable[..., Path], target: Target, cache: Cache
) -> None:
    source = find_source(write_model(CNN))
    image = TensorSpec("image", "UINT8", (-1, 1, 8, 8))
    options = Options(inputs=(image,), max_batch_size=6, threads=1)
    heard: list[Progress] = []
    artifact = compile(source, options, target, cache, heard.append)
    assert not artifact.cached
    manifest = artifact.manifest
    assert set(outcomes(artifact).values()) <= {"chosen", "slower"}, manifest.ladder
    assert (manifest.max_batch_size, manifest.buckets) == (6, (1, 2, 4, 6))
    assert manifest.outputs == (TensorSpec("logits", "FP32", (-1, 10)), TensorSpec("best", "INT64", (-1,)))
    assert all(sorted(rung.milliseconds) == [1, 2, 4, 6] for rung in manifest.ladder)
    assert {"load", "build", "verify", "race"} <= {progress.stage for progress in heard}
    namespace: dict[str, object] = {}
    exec(CNN, namespace)
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = namespace["create_model"]().eval()(images)  # type: ignore[operator]
    logits, best = run(artifact, images)
    torch.testing.assert_close(logits, wanted["logits"], rtol=1e-4, atol=1e-5)
    assert torch.equal(best, wanted["best"])
    heard.clear()
    again = compile(source, options, target, cache, heard.append)
    assert (again.cached, again.manifest, heard) == (True, manifest, [])


def test_a_program_needs_no_options_and_keeps_its_sizes_dynamic(tmp_path: Path, target: Target, cache: Cache) -> None:
    class Tail(torch.nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            steps = torch.arange(ids.shape[1])
            return (ids * steps * mask).sum(1), (ids * mask).reshape(ids.shape[0], -1, 1).expand(-1, -1, 2) * 1.5

    batch, length = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=2, max=64)
    shapes = {"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}}
    example = torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)
    torch.export.save(torch.export.export(Tail(), example, dynamic_shapes=shapes), tmp_path / "model.pt2")
    options = Options(backends=("eager", "torchscript"))
    artifact = compile(find_source(tmp_path), options, target, cache)
    manifest = artifact.manifest
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs] == [
        ("ids", "INT64", (-1, -1)),
        ("mask", "INT64", (-1, -1)),
    ]
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [("output_0", (-1,)), ("output_1", (-1, -1, 2))]
    assert manifest.max_batch_size == 8
    scripted = next(rung for rung in manifest.ladder if rung.backend == "torchscript")
    assert scripted.outcome in ("chosen", "slower"), scripted
    ids = torch.arange(21).reshape(3, 7)
    sums, doubled = run(artifact, ids, torch.ones_like(ids))
    assert sums.tolist() == [(row * torch.arange(7)).sum().item() for row in ids]
    assert doubled.shape == (3, 7, 2)


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")  # the file is made here
def test_a_torchscript_file_is_served_and_can_be_lowered(tmp_path: Path, target: Target, cache: Cache) -> None:
    namespace: dict[str, object] = {}
    exec(CNN.replace('{"logits": logits, "best": logits.argmax(1)}', "logits"), namespace)
    module = namespace["create_model"]().eval()  # type: ignore[operator]
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.jit.save(torch.jit.trace(module, images), tmp_path / "model.pt")
    image = TensorSpec("image", "FP32", (-1, 1, 8, 8))
    options = msgspec.structs.replace(FAST, inputs=(image,))
    artifact = compile(find_source(tmp_path), options, target, cache)
    assert set(outcomes(artifact).values()) <= {"chosen", "slower"}, artifact.manifest.ladder
    torch.testing.assert_close(run(artifact, images)[0], module(images), rtol=1e-4, atol=1e-5)
    interface = Interface((image,), artifact.manifest.outputs, 4, (1, 2, 4))
    program = lower(open_model(tmp_path, "cpu"), interface, "cpu")
    torch.testing.assert_close(program.module()(images)[0], module(images), rtol=1e-4, atol=1e-5)


def test_weights_come_from_safetensors_and_must_fit(
    write_model: Callable[..., Path], target: Target, cache: Cache
) -> None:
    folder = write_model()
    weights = {"layer.weight": torch.eye(4)[:3].contiguous(), "layer.bias": torch.ones(3)}
    save_file(weights, folder / "model.safetensors")
    artifact = compile(find_source(folder), FAST, target, cache)
    assert run(artifact, torch.ones(2, 4))[0].tolist() == [[2.0] * 3] * 2
    save_file({"layer.weight": weights["layer.weight"], "extra": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(LoadFailed, match=r"lacks 'layer\.bias' and has 'extra', which the module does not"):
        open_model(folder, "cpu")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (odd(load="sys.exit(3)"), r"model/model.py cannot be loaded: SystemExit: 3 \(model.py line 14\)"),
        (
            odd(load="import no_such_module"),
            r"ModuleNotFoundError: No module named 'no_such_module' \(model.py line 14\)",
        ),
        (odd(load="return 5"), "must return a torch.nn.Module from create_model.., not int"),
        ("x = 1", "does not define create_model"),
        (odd("return {'y': [x]}"), "returns dict with list inside"),
        (odd("return x @ self.missing"), r"cannot run on x FP32\[1, 4\]: AttributeError: .*missing.*line 11"),
        (odd("return x.reshape(1, 4)"), "it does run at batch 1: set max_batch_size: 1"),
        (odd("return x.sum()"), "its first dimension must be the batch"),
        (odd("return x - x.mean(0)"), "mixes the rows of a batch: 3 rows give other answers"),
        (odd("return x + torch.rand(4)"), "differently the second time"),
        (odd("return x * 1j"), "complex64, which no client can send or read"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(
    write_model: Callable[..., Path], tmp_path: Path, text: str, sentence: str
) -> None:
    folder = str(write_model(text))
    job = Describe(Place(folder, folder, "cpu"), FAST, str(tmp_path / "golden"))
    with pytest.raises(LoadFailed, match=sentence):
        describe(job, lambda note: None)


def test_it_crosses_the_border_of_the_builder(attempt: Callable[..., Artifact]) -> None:
    with pytest.raises(LoadFailed, match=r"model/model\.py cannot be loaded: SystemExit: 3 \(model\.py line 14\)"):
        attempt(odd(load="sys.exit(3)"))


@pytest.mark.parametrize(
    ("load", "sentence"),
    [
        ("print('bye', file=sys.stderr, flush=True); os._exit(3)", "exit status 3 before it was done: bye"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
    ],
)
def test_a_model_that_takes_its_builder_down_is_an_error_as_any_other(
    attempt: Callable[..., Artifact], load: str, sentence: str
) -> None:
    with pytest.raises(LoadFailed, match=sentence):
        attempt(odd(load=load))


def test_a_model_that_hangs_is_stopped(attempt: Callable[..., Artifact]) -> None:
    with pytest.raises(LoadFailed, match="did not finish within 2 s"):
        attempt(odd(load="time.sleep(600)"), msgspec.structs.replace(FAST, timeout_s=2.0))


def test_a_model_that_mixes_rows_is_served_without_a_batch(attempt: Callable[..., Artifact]) -> None:
    artifact = attempt(odd("return x - x.mean(0)"), msgspec.structs.replace(FAST, max_batch_size=0))
    assert (artifact.manifest.max_batch_size, artifact.manifest.buckets) == (0, ())
    assert artifact.manifest.outputs[0].shape == (-1, 4)
    assert run(artifact, torch.ones(3, 4))[0].tolist() == [[0.0] * 4] * 3
