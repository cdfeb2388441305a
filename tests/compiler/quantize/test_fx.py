"""INT8 for TorchScript: static, dynamic and trained; saved, loaded and run by the engine it was made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from compiler.backends import torchscript
from compiler.errors import BuildFailed
from compiler.jobs import Interface, Place
from compiler.load import Opened, open_model
from compiler.quantize import detect_quantization, fx, quantize
from compiler.quantize.engine import FILE_NAME, packed_by, quiet_torch_ao
from compiler.spec import Options, Rung, TensorSpec

ENGINES = [name for name in ("onednn", "x86") if name in torch.backends.quantized.supported_engines]
IMAGE, PROBABILITIES = TensorSpec("image", "FP32", (-1, 1, 8, 8)), TensorSpec("probabilities", "FP32", (-1, 10))
DIGITS = Interface((IMAGE,), (PROBABILITIES,), 64, (1, 64))


@pytest.fixture(autouse=True)
def the_engine_of_the_process_is_left_alone() -> Iterator[None]:
    before = torch.backends.quantized.engine
    yield
    assert torch.backends.quantized.engine == before


def to_int8(opened: Opened, interface: Interface, place: Place, variant: str) -> Opened:
    return quantize(opened, interface, place, Rung("torchscript", "int8", variant), Options())


def kernels(script: torch.jit.ScriptModule) -> set[str]:
    """The operators of a frozen script that compute in INT8."""
    return {node.kind() for node in script.inlined_graph.nodes() if node.kind().startswith("quantized::")}


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
@pytest.mark.parametrize("engine", ENGINES)
def test_static_runs_on_int8_kernels_from_its_file(
    engine: str,
    net: Opened,
    interface: Interface,
    place: Place,
    images: Tensor,
    tmp_path: Path,
    error_of: Callable[[Tensor, Tensor], float],
) -> None:
    wanted = net.module(images[:5])
    save_file({"image": images}, tmp_path / "calibration.safetensors")
    rung = Rung("torchscript", "int8", engine)
    opened = to_int8(net, interface, place, engine)
    assert fx.count_quantized(opened.module) == 3
    torchscript.build(opened, interface, place, tmp_path, rung)
    assert (tmp_path / FILE_NAME).read_text() == f"{engine}\n"
    (answer,) = torchscript.load(tmp_path, interface, "cpu")((images[:5],))
    assert 0 < error_of(answer, wanted) < 0.1
    script = torch.jit.load(tmp_path / "model.ts")
    # ReLU6 is in the convolution before it, and no layer is left in float.
    assert kernels(script) == {"quantized::conv2d_relu", "quantized::add", "quantized::linear"}


@pytest.mark.skipif(len(ENGINES) < 2, reason="needs two engines")
def test_two_engines_run_side_by_side(
    net: Opened, interface: Interface, place: Place, images: Tensor, tmp_path: Path
) -> None:
    """Each keeps the kernels it was packed for, whatever the process is set to when it is called."""
    save_file({"image": images}, tmp_path / "calibration.safetensors")
    models, answers = {}, {}
    for engine in ENGINES:
        folder = tmp_path / engine
        folder.mkdir()
        fresh = Opened("python", type(net.module)().eval().requires_grad_(False))
        rung = Rung("torchscript", "int8", engine)
        torchscript.build(to_int8(fresh, interface, place, engine), interface, place, folder, rung)
        models[engine] = torchscript.load(folder, interface, "cpu")
        answers[engine] = models[engine]((images[:5],))[0]
    for engine in ENGINES:
        for other in ENGINES:
            with packed_by(other):
                assert torch.equal(models[engine]((images[:5],))[0], answers[engine])


def test_dynamic_takes_linear_layers_and_no_data(place: Place, tmp_path: Path) -> None:
    torch.manual_seed(0)
    interface = Interface((TensorSpec("x", "FP32", (-1, 32)),), (TensorSpec("y", "FP32", (-1, 4)),), 4, (1, 4))
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    wanted = model(x)
    opened = to_int8(Opened("python", model), interface, place, "dynamic")
    torchscript.build(opened, interface, place, tmp_path, Rung("torchscript", "int8", "dynamic"))
    (answer,) = torchscript.load(tmp_path, interface, "cpu")((x,))
    torch.testing.assert_close(answer, wanted, rtol=5e-2, atol=2e-2)
    assert not torch.equal(answer, wanted)


def test_a_trained_model_is_converted_without_calibration(
    digits_qat: Path, digits_data: tuple[Tensor, Tensor], place: Place, tmp_path: Path
) -> None:
    images, labels = digits_data
    with quiet_torch_ao():  # its model.py calls prepare_qat_fx
        opened = open_model(digits_qat, "cpu")
    assert detect_quantization(opened) == "fx"
    wanted = opened.module(images)["probabilities"]
    converted = to_int8(opened, DIGITS, place, ENGINES[0])
    assert fx.count_quantized(converted.module) == 4
    answer = converted.module(images)["probabilities"]
    assert (answer.argmax(1) == wanted.argmax(1)).float().mean() > 0.99
    assert (answer.argmax(1) == labels).float().mean() > 0.97


def test_layers_that_were_prepared_one_by_one_are_converted_too(place: Place) -> None:
    from torch.ao.quantization import DeQuantStub, QuantStub, disable_observer, get_default_qat_qconfig, prepare_qat

    class Eager(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.before, self.layer, self.after = QuantStub(), nn.Linear(4, 4), DeQuantStub()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.after(self.layer(self.before(x)))
            return y

    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    interface = Interface((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),), 4, (1, 4))
    with quiet_torch_ao():
        model = Eager().train()
        model.qconfig = get_default_qat_qconfig(ENGINES[0])  # type: ignore[assignment]
        model = prepare_qat(model)
        model(x)
        model.apply(disable_observer).eval()
    wanted = model(x)
    opened = Opened("python", model)
    assert detect_quantization(opened) == "fx"
    converted = to_int8(opened, interface, place, ENGINES[0])
    torch.testing.assert_close(converted.module(x), wanted, rtol=5e-2, atol=5e-2)


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("model", "variant", "sentence"),
    [
        (Decides(), "onednn", "torch.ao cannot quantise the model: TraceError"),
        (nn.ReLU(), "onednn", "found no layer to quantise"),
        (nn.Conv2d(4, 4, 1), "dynamic", "found no layer to quantise"),
        (nn.Linear(4, 4), "no-such-engine", "no INT8 kernels by 'no-such-engine': it has"),
    ],
)
def test_what_cannot_be_done_is_said(
    model: nn.Module, variant: str, sentence: str, place: Place, tmp_path: Path
) -> None:
    interface = Interface((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),), 4, (1, 4))
    save_file({"x": torch.ones(4, 4)}, tmp_path / "calibration.safetensors")
    with pytest.raises(BuildFailed, match=sentence):
        to_int8(Opened("python", model.eval()), interface, place, variant)


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
def test_only_python_modules_have_layers(net: Opened, interface: Interface, place: Place, images: Tensor) -> None:
    script = Opened("torchscript", torch.jit.trace(net.module, images[:2]))
    with pytest.raises(BuildFailed, match="a TorchScript file has none left: inductor quantises it"):
        to_int8(script, interface, place, "onednn")
    with pytest.raises(BuildFailed, match="static INT8 needs calibration data"):
        to_int8(net, interface, place, ENGINES[0])
