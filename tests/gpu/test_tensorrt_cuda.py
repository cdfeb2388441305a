"""Hybrids of TensorRT and PyTorch on a real GPU, through the public door and reloaded by processes of their own."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from compiler import Artifact, Cache, Options, Rung, compile, detect_target, find_source
from compiler.backends import load_candidate
from compiler.jobs import Interface, Place
from compiler.limits import find_refusal, parse_capability
from compiler.load import Opened, open_model
from compiler.spec import TensorSpec
from compiler.tools import find_tensorrt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(find_tensorrt() is None, reason="needs TensorRT"),
]

ROOT = Path(__file__).parents[2]
SMALL = 2e-3  # TF32 keeps ten bits of each factor; the models here give values around one

# special.i0 has no converter: what stands between two of them stays in PyTorch too, for it is too small for an engine.
INTERLEAVED = """
import torch
from torch import nn

class Interleaved(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.second, self.third = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16 * 64, 10)

    def forward(self, x):
        y = torch.relu(self.norm(self.first(x)))
        y = torch.relu(self.second(y)) * 0.5 + 0.1
        y = torch.special.i0(y.clamp(-2, 2)).reshape(x.shape[0], 16, 64).transpose(1, 2)
        y = torch.special.i0(y * 0.1).reshape(x.shape[0], 16, 8, 8).transpose(2, 3)
        y = torch.sigmoid(self.third(torch.relu(y * 0.3 + 1))) * y
        y = torch.special.i0(y.clamp(-2, 2)).permute(0, 1, 3, 2)
        y = torch.relu(y * 0.1 - 0.05) + y
        return torch.softmax(self.head(y.reshape(y.shape[0], -1)), 1)

def create_model():
    return Interleaved()
"""
IMAGE = TensorSpec("x", "FP32", (-1, 3, 8, 8))


class TwoOpenSizes(torch.nn.Module):
    """A part in PyTorch that reshapes to two open sizes has to read them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.norm = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16), torch.nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(torch.relu(self.first(x))) * 0.5 + 0.1
        y = torch.sigmoid(y) * y
        y = torch.special.i0(y).reshape(x.shape[0], x.shape[1], 4, 4).transpose(2, 3)
        y = torch.special.i0(y * 0.1).reshape(x.shape[0], x.shape[1], 16)
        y = torch.relu(self.second(y)) * 0.3 + 1
        return torch.sigmoid(y) * y + torch.relu(y - 1)


def compile_model(folder: Path, tmp_path: Path, **options: Any) -> Artifact:
    chosen = {"backends": ("tensorrt",), "precisions": ("tf32",), **options}
    return compile(find_source(folder), Options(**chosen), detect_target("cuda:0"), Cache(tmp_path / "cache"))


def write_model(folder: Path, code: str) -> torch.nn.Module:
    folder.mkdir()
    (folder / "model.py").write_text(code)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    model: torch.nn.Module = namespace["create_model"]().eval()
    return model


def ask_reloaded(
    folder: Path, interface: Interface, model: torch.nn.Module, inputs: list[Tensor], tmp_path: Path
) -> dict[str, Any]:
    """What a fresh process answers to `inputs` from the files in `folder`, and what it had to import for that."""
    with torch.inference_mode():
        torch.save([((x,), (model(x),)) for x in inputs], tmp_path / "cases")
    (tmp_path / "interface").write_bytes(msgspec.json.encode(interface))
    paths = map(str, (folder, tmp_path / "interface", tmp_path / "cases"))
    command = [sys.executable, "-m", "tests.gpu.reload", *paths]
    answer = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def build_here(opened: Opened, interface: Interface, out: Path) -> str:
    """Build the dynamic variant in this process, as a builder does in its own; how it was saved."""
    from compiler.backends import tensorrt

    out.mkdir()
    return tensorrt.build(opened, interface, Place("", "", "cuda:0"), out, Rung("tensorrt", "tf32", "dynamic")).how


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_engines_and_pytorch_interleaved_are_equal_at_every_batch_after_reloading(tmp_path: Path) -> None:
    """Regression: tracing froze the batch of a part that stayed in PyTorch."""
    model = write_model(tmp_path / "model", INTERLEAVED)
    options = {"inputs": (IMAGE,), "max_batch_size": 32, "buckets": (1, 8, 32)}
    artifact = compile_model(tmp_path / "model", tmp_path, **options)
    chosen = artifact.manifest.chosen
    assert (chosen.backend, chosen.graphs) == ("tensorrt", (1, 8, 32)), artifact.manifest.ladder
    assert chosen.hybrid is not None
    kinds = [segment.kind for segment in chosen.hybrid.segments]
    assert kinds == ["tensorrt", "torch", "tensorrt", "torch", "tensorrt"]
    assert ("aten.i0", 3) in {(left.operator, left.count) for left in chosen.hybrid.remainders}
    assert 0.5 < chosen.hybrid.operator_coverage < 1
    manifest = artifact.manifest
    interface = Interface(manifest.inputs, manifest.outputs, manifest.max_batch_size, manifest.buckets)
    images = [random(rows, 3, 8, 8, seed=rows) for rows in range(1, 33)]
    answered = ask_reloaded(artifact.folder / "model", interface, model, images, tmp_path)
    assert answered["imported"] == [], "serving needs the runtime library alone"
    assert answered["graphs"] == [1, 8, 32], answered["refused"]
    assert max(answered["differences"].values()) < SMALL, answered["differences"]
    assert compile_model(tmp_path / "model", tmp_path, **options).cached


BUILT_HERE = pytest.mark.filterwarnings("ignore")  # the compiler's own warnings, in this process for once
SCORES = TensorSpec("scores", "FP32", (-1, 10))


@BUILT_HERE
def test_sizes_that_pytorch_reads_stay_sizes(tmp_path: Path) -> None:
    """Regression: where a number has to be read outside the engines, the hybrid is scripted."""
    model = TwoOpenSizes().eval()
    batch, length = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("length", min=2, max=64)
    example, shapes = (torch.randn(2, 12, 16),), ({0: batch, 1: length},)
    program = torch.export.export(model, example, dynamic_shapes=shapes, strict=False)
    (tmp_path / "model").mkdir()
    torch.export.save(program, tmp_path / "model" / "model.pt2")
    opened = open_model(tmp_path / "model", "cuda:0")
    rows = (TensorSpec("x", "FP32", (-1, -1, 16), example_shape=(-1, 12, 16)),)
    interface = Interface(rows, (TensorSpec("y", "FP32", (-1, -1, 16)),), 8, (1, 8))
    how = build_here(opened, interface, tmp_path / "built")
    assert how.startswith("scripted"), how
    sizes = [(1, 5), (2, 12), (3, 7), (8, 64), (5, 2)]
    inputs = [random(*size, 16) for size in sizes]
    answered = ask_reloaded(tmp_path / "built", interface, model, inputs, tmp_path)
    assert answered["imported"] == []
    assert max(answered["differences"].values()) < 5 * SMALL, answered["differences"]


@BUILT_HERE
def test_inputs_that_are_not_contiguous_reach_an_engine_unharmed(tmp_path: Path) -> None:
    """Regression: the runtime of Torch-TensorRT 2.11 freed its contiguous copy before the engine had read it."""
    model = write_model(tmp_path / "model", INTERLEAVED).cuda()
    interface = Interface((IMAGE,), (SCORES,), 32, (32,))
    build_here(Opened("python", model), interface, tmp_path / "built")
    loaded = load_candidate(tmp_path / "built", "tensorrt", interface, "cuda:0")
    images = [random(32, 3, 8, 8, seed=seed).cuda() for seed in range(40)]
    with torch.inference_mode():
        for image in images:
            want = model(image)
            (got,) = loaded((image.to(memory_format=torch.channels_last),))
            rubbish = [torch.full_like(image, float("nan")) for _ in range(8)]  # takes what was freed too early
            assert float((got - want).abs().max()) < SMALL
            del rubbish
    script = torch.jit.load(tmp_path / "built" / "any_batch" / "model.ts")  # type: ignore[no-untyped-call]
    lines = str(script.inlined_graph).splitlines()
    calls = sum("tensorrt::execute_engine" in line for line in lines)
    assert sum("aten::contiguous" in line for line in lines) >= calls == 3


@BUILT_HERE
def test_a_hybrid_that_torchscript_refuses_is_an_exported_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last format, built in this process and read by another one without the compiler."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("TorchScript is gone")

    monkeypatch.setattr(torch.jit, "trace", refuse)
    model = write_model(tmp_path / "model", INTERLEAVED)
    interface = Interface((IMAGE,), (SCORES,), 8, (1, 8))
    how = build_here(Opened("python", copy.deepcopy(model).cuda()), interface, tmp_path / "built")
    assert how.startswith("saved as an exported program"), how
    images = [random(rows, 3, 8, 8) for rows in (1, 2, 3, 8)]
    answered = ask_reloaded(tmp_path / "built", interface, model, images, tmp_path)
    assert answered["imported"] == []
    assert max(answered["differences"].values()) < SMALL, answered["differences"]


ATTENTION = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        rows, count, width = x.shape
        q, k, v = self.qkv(self.before(x)).reshape(rows, count, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, count, width)
        x = x + self.out(attended)
        return x + self.mlp(self.after(x))

class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 128, 8, stride=8)
        self.blocks, self.head = nn.Sequential(*[Block(128) for _ in range(2)]), nn.Linear(128, 64)

    def forward(self, x):
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

def create_model():
    return Vit()
"""

# Values that FP8 cannot hold beside each other: the answer of a network of them is not a number, or far off.
EXPLODING = """
import torch
from torch import nn

class Exploding(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(12))

    def forward(self, x):
        y = x.flatten(1)[:, :64]
        for layer in self.layers:
            y = torch.relu(layer(y)) * 60
        return y * 1e-9

def create_model():
    return Exploding()
"""


def write_calibration(folder: Path) -> None:
    save_file({"x": random(32, 3, 32, 32, seed=5)}, folder / "calibration.safetensors")


PICTURE = TensorSpec("x", "FP32", (-1, 3, 32, 32))


def test_fp8_of_a_transformer_passes_the_gate(tmp_path: Path) -> None:
    pytest.importorskip("modelopt")
    write_model(tmp_path / "model", ATTENTION)
    write_calibration(tmp_path / "model")
    options = {"inputs": (PICTURE,), "max_batch_size": 8, "buckets": (8,), "precisions": ("fp8",)}
    artifact = compile_model(tmp_path / "model", tmp_path, **options)
    refusal = find_refusal("fp8", find_tensorrt() or "", parse_capability(artifact.manifest.target.capabilities))
    rungs = [rung for rung in artifact.manifest.ladder if rung.precision == "fp8"]
    if refusal:
        assert {(rung.outcome, rung.reason) for rung in rungs} == {("unsupported", refusal)}
        return
    assert artifact.manifest.precision == "fp8", artifact.manifest.ladder
    worst = max(error.relative_l2 for error in artifact.manifest.chosen.errors)
    assert 1e-3 < worst < 0.15, "FP8 rounds visibly, and not too much"


def test_a_quantised_candidate_that_gives_no_numbers_is_never_served(tmp_path: Path) -> None:
    pytest.importorskip("modelopt")
    write_model(tmp_path / "model", EXPLODING)
    write_calibration(tmp_path / "model")
    options = {"inputs": (PICTURE,), "max_batch_size": 8, "buckets": (8,), "precisions": ("fp8", "fp16")}
    artifact = compile_model(tmp_path / "model", tmp_path, **options)
    rungs = [rung for rung in artifact.manifest.ladder if rung.backend == "tensorrt"]
    assert {rung.outcome for rung in rungs} <= {"inaccurate", "failed", "unsupported"}, rungs
    assert artifact.manifest.backend == "eager"
    assert artifact.manifest.is_fallback


def test_int8_is_a_reported_rung_where_the_flavour_has_none(tmp_path: Path) -> None:
    write_model(tmp_path / "model", ATTENTION)
    write_calibration(tmp_path / "model")
    refusal = find_refusal("int8", find_tensorrt() or "", (9, 0))
    if not refusal:
        pytest.skip("this flavour takes INT8 activations")
    options = {"inputs": (PICTURE,), "max_batch_size": 8, "buckets": (8,), "precisions": ("int8",)}
    artifact = compile_model(tmp_path / "model", tmp_path, **options)
    rungs = [rung for rung in artifact.manifest.ladder if rung.precision == "int8"]
    assert {(rung.outcome, rung.reason) for rung in rungs} == {("unsupported", refusal)}
