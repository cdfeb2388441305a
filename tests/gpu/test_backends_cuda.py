"""The three backends on a real GPU, through the public door."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compiler import Cache, Options, backends, compile, detect_devices, detect_target, find_source
from compiler.spec import TensorSpec

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CNN = """
import torch
from torch import nn

class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.deeper = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32 * 64, 10)

    def forward(self, image):
        y = torch.relu(self.deeper(torch.relu(self.norm(self.conv(image)))))
        logits = self.head(y.reshape(image.shape[0], -1))
        return {"logits": logits, "row": torch.arange(image.shape[0], device=image.device)}

def create_model():
    return Cnn()
"""

IMAGE = TensorSpec("image", "FP32", (-1, 3, 16, 16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.py").write_text(CNN)
    return model


def test_each_backend_builds_agrees_with_the_cpu_and_is_cached(folder: Path, tmp_path: Path) -> None:
    assert detect_devices()[0] == "cuda:0"
    target = detect_target("cuda:0")
    assert target.cuda
    assert target.capabilities[0].startswith("sm_")
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    namespace: dict[str, object] = {}
    exec(CNN, namespace)
    with torch.inference_mode():
        wanted = namespace["create_model"]().eval()(images)  # type: ignore[operator]
    cache = Cache(tmp_path / "cache")
    for backend in ("eager", "torchscript"):
        options = Options(inputs=(IMAGE,), max_batch_size=8, backends=(backend,), precisions=("fp32",))
        artifact = compile(find_source(folder), options, target, cache)
        assert (artifact.cached, artifact.manifest.backend) == (False, backend)
        model = backends.load(artifact.folder, artifact.manifest, "cuda:0")
        logits, row = model((images.cuda(),))
        assert logits.is_cuda
        torch.testing.assert_close(logits.cpu(), wanted["logits"], rtol=1e-3, atol=1e-4)
        assert row.tolist() == [0, 1, 2, 3, 4]
        assert compile(find_source(folder), options, target, cache).cached


def test_the_ladder_is_raced_on_the_gpu(folder: Path, tmp_path: Path) -> None:
    options = Options(inputs=(IMAGE,), max_batch_size=8, backends=("eager", "torchscript"))
    artifact = compile(find_source(folder), options, detect_target("cuda:0"), Cache(tmp_path / "cache"))
    raced = [rung for rung in artifact.manifest.ladder if rung.milliseconds]
    assert {"eager fp32", "torchscript fp32", "torchscript fp16"} <= {rung.rung.name for rung in raced}
    assert {rung.outcome for rung in raced} == {"chosen", "slower"}, artifact.manifest.ladder
    assert all(sorted(rung.milliseconds) == [1, 2, 4, 8] for rung in raced)
    assert {rung.graphs for rung in raced} == {(1, 2, 4, 8)}, "each of these can be recorded"


# What AOTInductor builds depends on the C++ toolchain: there are machines where torch's own loader crashes on it.
PLAIN_INDUCTOR = """
import sys, torch
row = torch.ones(2, 4, device="cuda")
program = torch.export.export(torch.nn.Linear(4, 4).cuda().eval(), (row,))
torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(program, package_path=sys.argv[1]))(row)
"""
PLAIN_TIMEOUT_S = 240.0  # a first compilation on a bare machine takes a minute or two


@pytest.fixture
def inductor(tmp_path: Path) -> None:
    """Skips where torch alone cannot build, load and call such a package."""
    command = [sys.executable, "-c", PLAIN_INDUCTOR, str(tmp_path / "plain.pt2")]
    try:
        plain = subprocess.run(command, check=False, capture_output=True, timeout=PLAIN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"AOTInductor of this torch takes longer than {PLAIN_TIMEOUT_S:.0f} s for one layer here")
    if plain.returncode:
        pytest.skip(f"torch alone does not load what its AOTInductor builds here: it ended with {plain.returncode}")


@pytest.mark.usefixtures("inductor")
def test_aotinductor_is_a_rung_of_the_gpu(folder: Path, tmp_path: Path) -> None:
    options = Options(inputs=(IMAGE,), max_batch_size=8, backends=("inductor",), precisions=("fp32",))
    artifact = compile(find_source(folder), options, detect_target("cuda:0"), Cache(tmp_path / "cache"))
    assert artifact.manifest.backend == "inductor", artifact.manifest.ladder


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch.export.load of 2.11, of its own buffer
def test_a_program_exported_on_the_cpu_moves_to_the_gpu(tmp_path: Path) -> None:
    namespace: dict[str, object] = {}
    exec(CNN, namespace)
    module = namespace["create_model"]().eval()  # type: ignore[operator]
    shapes = {"image": {0: torch.export.Dim("batch", min=1, max=8)}}
    program = torch.export.export(module, (torch.randn(2, 3, 16, 16),), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    artifact = compile(
        find_source(tmp_path),
        Options(backends=("eager", "torchscript"), precisions=("fp32",)),
        detect_target("cuda:0"),
        Cache(tmp_path / "cache"),
    )
    assert {rung.outcome for rung in artifact.manifest.ladder} <= {"chosen", "slower"}, artifact.manifest.ladder
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    logits, _ = backends.load(artifact.folder, artifact.manifest, "cuda:0")((images.cuda(),))
    torch.testing.assert_close(logits.cpu(), module(images)["logits"], rtol=1e-3, atol=1e-4)
