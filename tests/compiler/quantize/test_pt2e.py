"""INT8 for AOTInductor: what the graph holds, and which models it takes. `test_ladder_int8.py` compiles and runs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from compiler.errors import BuildFailed, ToolMissing
from compiler.jobs import Interface, Place
from compiler.load import Opened, open_model
from compiler.quantize import detect_quantization, quantize
from compiler.quantize.engine import quiet_torch_ao
from compiler.spec import Options, Rung, TensorSpec

RUNG = Rung("inductor", "int8", "pt2e")
DIGITS = Interface(
    (TensorSpec("image", "FP32", (-1, 1, 8, 8)),), (TensorSpec("probabilities", "FP32", (-1, 10)),), 64, (1, 64)
)
decomposed = torch.ops.quantized_decomposed


def to_int8(opened: Opened, interface: Interface, place: Place) -> Opened:
    return quantize(opened, interface, place, RUNG, Options())


def weights_in_int8(opened: Opened) -> int:
    """Convolutions and linears whose weight is dequantised just before them."""
    assert isinstance(opened.module, fx.GraphModule)
    return sum(
        isinstance(node.args[1], fx.Node) and str(node.args[1].target).startswith("quantized_decomposed.dequantize")
        for node in opened.module.graph.nodes
        if node.target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
    )


@pytest.fixture
def calibrated(place: Place, images: Tensor) -> Place:
    save_file({"image": images}, Path(place.folder) / "calibration.safetensors")
    return place


def test_a_module_called_twice_is_quantised_wherever_it_is_called(
    net: Opened, interface: Interface, calibrated: Place, images: Tensor, error_of: Callable[[Tensor, Tensor], float]
) -> None:
    wanted = net.module(images[:8])
    opened = to_int8(net, interface, calibrated)
    assert weights_in_int8(opened) == 3
    assert 0 < error_of(opened.module(images[:8])[0], wanted) < 0.1


@pytest.mark.filterwarnings(r"ignore:`torch\.jit:DeprecationWarning")
def test_torchscript_and_programs_are_quantised_alike(
    net: Opened, interface: Interface, calibrated: Place, images: Tensor
) -> None:
    program = torch.export.export(
        net.module, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=8)},)
    )
    sources = [
        Opened("torchscript", torch.jit.trace(net.module, images[:2])),
        Opened("pt2", program.module(check_guards=False), program),
    ]
    answers = []
    for opened in sources:
        converted = to_int8(opened, interface, calibrated)
        assert weights_in_int8(converted) == 3, opened.kind
        answers.append(converted.module(images[:8])[0])
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-2, atol=1e-2)


def test_a_program_that_quantises_itself_is_found_read_and_taken_as_it_is(
    net: Opened, interface: Interface, calibrated: Place, images: Tensor, tmp_path: Path
) -> None:
    trained = to_int8(net, interface, calibrated)
    wanted = trained.module(images[:8])[0]
    dynamic = ({0: torch.export.Dim("batch", min=1, max=8)},)
    torch.export.save(
        torch.export.export(trained.module, (images[:2],), dynamic_shapes=dynamic), tmp_path / "model.pt2"
    )
    opened = open_model(tmp_path, "cpu")
    assert detect_quantization(opened) == "qdq"
    again = to_int8(opened, interface, Place(str(tmp_path), str(tmp_path), "cpu"))
    assert weights_in_int8(again) == 3
    torch.testing.assert_close(again.module(images[:8])[0], wanted)
    with pytest.raises(BuildFailed, match="an exported program has none left"):
        quantize(opened, interface, calibrated, Rung("torchscript", "int8", "onednn"), Options())


def test_a_trained_model_keeps_the_convolution_of_one_channel_in_float(
    digits_qat: Path, digits_data: tuple[Tensor, Tensor], place: Place
) -> None:
    images, labels = digits_data
    with quiet_torch_ao():  # its model.py calls prepare_qat_fx
        opened = open_model(digits_qat, "cpu")
    converted = to_int8(opened, DIGITS, place)
    assert weights_in_int8(converted) == 3  # of two convolutions and two linears
    answer = torch.cat([converted.module(batch)[0] for batch in images.split(64)])
    assert (answer.argmax(1) == labels).float().mean() > 0.97


@pytest.mark.parametrize(
    ("model", "sentence"), [(nn.ReLU(), "found nothing to quantise"), (nn.Linear(4, 4), "needs calibration data")]
)
def test_what_cannot_be_done_is_said(model: nn.Module, sentence: str, place: Place, tmp_path: Path) -> None:
    interface = Interface((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),), 4, (1, 4))
    if "calibration" not in sentence:
        save_file({"x": torch.ones(4, 4)}, tmp_path / "calibration.safetensors")
    with pytest.raises(BuildFailed, match=sentence):
        to_int8(Opened("python", model.eval()), interface, place)


def test_without_torchao_the_tool_is_named(
    net: Opened, interface: Interface, calibrated: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization.pt2e.quantize_pt2e", None)
    with pytest.raises(ToolMissing, match=r"pip install 'torchere\[quantization\]'"):
        to_int8(net, interface, calibrated)
