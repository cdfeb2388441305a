from __future__ import annotations

import msgspec
import pytest

from compiler.jobs import Described, Interface
from compiler.ladder import plan
from compiler.spec import Options, Target, TensorSpec

X = TensorSpec("x", "FP32", (-1, 4))
PLAIN = Described(Interface((X,), (X,), 8, (1, 8)), ())
CALIBRATED = msgspec.structs.replace(PLAIN, is_calibrated=True)
TRAINED = msgspec.structs.replace(PLAIN, quantization="fx")
CPU = Target("cpu", "some processor", (), "2.13.0", None, "Linux-x86_64", "3.11")
GPU = msgspec.structs.replace(CPU, device="cuda:0")


def rungs(options: Options, target: Target, described: Described = PLAIN) -> list[str]:
    return [one.rung.name for one in plan(options, target, described) if not one.refusal]


def refusals(options: Options, target: Target, described: Described = PLAIN) -> dict[str, str]:
    return {one.rung.name: one.refusal for one in plan(options, target, described) if one.refusal}


def test_a_cpu_tries_float32_on_every_backend_it_has() -> None:
    assert rungs(Options(), CPU) == ["eager fp32", "torchscript fp32", "inductor fp32"]
    assert refusals(Options(), CPU) == {}


def test_a_gpu_tries_half_precision_and_tf32_where_an_engine_carries_it() -> None:
    assert rungs(Options(), GPU) == [
        "eager fp32",
        "torchscript fp32",
        "torchscript fp16",
        "inductor fp32",
        "inductor fp16",
        "tensorrt fp32 dynamic",
        "tensorrt fp32 static",
        "tensorrt tf32 dynamic",
        "tensorrt tf32 static",
        "tensorrt fp16 dynamic",
        "tensorrt fp16 static",
    ]


def test_calibration_data_say_that_int8_is_wanted() -> None:
    assert rungs(Options(), CPU, CALIBRATED)[2:5] == [
        "torchscript int8 onednn",
        "torchscript int8 x86",
        "torchscript int8 dynamic",
    ]
    assert "inductor int8 pt2e" in rungs(Options(), CPU, CALIBRATED)
    assert "tensorrt fp8 static" in rungs(Options(), GPU, CALIBRATED)


def test_a_model_trained_with_quantisers_needs_no_calibration_and_is_not_quantised_dynamically() -> None:
    names = rungs(Options(), CPU, TRAINED)
    assert "torchscript int8 onednn" in names
    assert "torchscript int8 dynamic" not in names


def test_static_int8_without_calibration_is_refused_with_the_remedy() -> None:
    asked = Options(precisions=("int8",))
    assert rungs(asked, CPU) == ["eager fp32", "torchscript int8 dynamic"]
    assert "put calibration.safetensors" in refusals(asked, CPU)["torchscript int8 onednn"]


@pytest.mark.parametrize(
    ("options", "target", "name", "reason"),
    [
        (Options(backends=("tensorrt",)), CPU, "tensorrt fp32", "needs an NVIDIA GPU"),
        (Options(precisions=("fp8",)), CPU, "torchscript fp8", "FP8 needs TensorRT engines on a GPU"),
        (Options(precisions=("tf32",)), CPU, "inductor tf32", "a format of NVIDIA GPUs"),
        (Options(precisions=("tf32",)), GPU, "torchscript tf32", "only TensorRT engines carry it"),
        (Options(precisions=("int8",)), GPU, "inductor int8", "INT8 on a GPU needs TensorRT engines"),
    ],
)
def test_what_was_asked_for_and_cannot_be_is_reported(options: Options, target: Target, name: str, reason: str) -> None:
    assert reason in refusals(options, target)[name]


def test_eager_stands_by_unless_strict_names_the_list() -> None:
    asked = Options(backends=("inductor",))
    assert rungs(asked, CPU) == ["eager fp32", "inductor fp32"]
    assert rungs(msgspec.structs.replace(asked, strict=True), CPU) == ["inductor fp32"]


def test_pruning_adds_a_rung_beside_the_dense_one() -> None:
    assert rungs(Options(sparsity="prune"), CPU) == [
        "eager fp32",
        "torchscript fp32",
        "torchscript fp32 2:4",
        "inductor fp32",
        "inductor fp32 2:4",
    ]
    assert "tensorrt fp16 dynamic 2:4" in rungs(Options(sparsity="prune"), GPU)


def test_a_model_without_a_batch_has_one_size_and_one_kind_of_engine() -> None:
    single = msgspec.structs.replace(PLAIN, interface=Interface((X,), (X,), 0, ()))
    assert [name for name in rungs(Options(precisions=("fp16",)), GPU, single) if "tensorrt" in name] == [
        "tensorrt fp16 static"
    ]
