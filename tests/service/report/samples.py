"""Manifests as the compiler writes them: a digits model on a CPU, and a hybrid module with every outcome on a GPU."""

from __future__ import annotations

from compiler.manifest import (
    Candidate,
    FileEntry,
    HybridMap,
    LayerSparsity,
    Manifest,
    OutputError,
    Remainder,
    Segment,
)
from compiler.spec import Target, TensorSpec

MB = 1000 * 1000


def error(relative_l2: float, max_abs: float = 0.0, name: str = "probabilities") -> OutputError:
    return OutputError(name, relative_l2, max_abs or 3 * relative_l2)


CPU_LADDER = (
    Candidate(
        "eager",
        "fp32",
        "slower",
        "torchscript int8 onednn is 2.9 times as fast",
        (error(0.0),),
        {1: 0.41, 8: 0.92, 64: 4.8},
        0.0,
        240_000,
        accuracy=0.9861,
        memory=2 * MB,
    ),
    Candidate(
        "torchscript",
        "fp32",
        "slower",
        "torchscript int8 onednn is 1.6 times as fast",
        (error(3.1e-8),),
        {1: 0.19, 8: 0.5, 64: 2.9},
        1.4,
        310_000,
        accuracy=0.9861,
        memory=3 * MB,
    ),
    Candidate(
        "torchscript",
        "int8",
        "chosen",
        "",
        (error(1.9e-2),),
        {1: 0.15, 8: 0.31, 64: 1.66},
        6.2,
        120_000,
        variant="onednn",
        accuracy=0.9833,
        memory=1 * MB,
    ),
    Candidate(
        "torchscript",
        "int8",
        "inaccurate",
        "top-1 fell from 98.61 % to 91.1 %, more than max_accuracy_drop allows",
        (error(2.1e-1),),
        {},
        5.9,
        118_000,
        variant="dynamic",
        accuracy=0.911,
    ),
    Candidate("inductor", "fp32", "skipped", "inductor needs a C++ compiler: install g++"),
    Candidate(
        "inductor", "int8", "failed", "its process was killed by SIGKILL (usually the kernel, for want of memory)"
    ),
    Candidate("tensorrt", "fp16", "unsupported", "TensorRT needs an NVIDIA GPU", variant="dynamic"),
)


def cpu_manifest() -> Manifest:
    return Manifest(
        key="a1" * 32,
        key_parts={
            "schema": "2.1",
            "source.model.py": "c3" * 32,
            "options.tolerances": "{}",
            "target.torch": '"2.11.0"',
        },
        target=Target("cpu", "AMD EPYC 7763", ("avx2", "fma"), "2.11.0", None, "Linux-x86_64", "3.11"),
        backend="torchscript",
        precision="int8",
        variant="onednn",
        inputs=(TensorSpec("image", "FP32", (-1, 1, 8, 8)),),
        outputs=(TensorSpec("probabilities", "FP32", (-1, 10)),),
        max_batch_size=64,
        buckets=(1, 8, 64),
        ladder=CPU_LADDER,
        files=(FileEntry("model/model.ts", 120_000, "d4" * 32),),
        stage_seconds={"start": 0.0, "load": 2.1, "reference": 0.8, "build": 13.5, "verify": 4.2, "race": 6.4},
        created="2026-08-01T12:00:00+00:00",
        reference_accuracy=0.9861,
        samples=360,
        sparsity=(
            LayerSparsity("features.0", (16, 1, 3, 3), False, 0.01),
            LayerSparsity("head", (10, 256), True, 0.5),
        ),
        origin="digits/1",
    )


HYBRID = HybridMap(
    segments=(
        Segment(
            "tensorrt", "_run_on_acc_0", {"convolution": 14, "silu": 12, "add": 3, "mean": 3}, ("stem", "blocks.0"),
            588_000, 392_000, 11 * MB,
        ),
        Segment("torch", "_run_on_gpu_1", {"cumsum": 1, "sort": 1}, ("router",), 392_000, 392_004),
        Segment(
            "tensorrt", "_run_on_acc_2",
            {"convolution": 41, "silu": 38, "mul": 9, "mean": 9, "sigmoid": 9, "add": 6}, ("blocks.1", "blocks.2"),
            392_004, 5_000, 31 * MB,
        ),
        Segment("torch", "_run_on_gpu_3", {"bincount": 1}, ("count",), 5_000, 3_900),
        Segment("tensorrt", "_run_on_acc_4", {"linear": 1, "softmax": 1}, ("head",), 3_900, 3_900, 3 * MB),
    ),
    remainders=(
        Remainder("aten.cumsum.default", 1, "no converter in torch-tensorrt 2.11"),
        Remainder("aten.sort.default", 1, "its converter refuses a dynamic shape"),
        Remainder("aten.bincount.default", 1, "the size of its answer depends on the data"),
    ),
    operator_coverage=0.9804,
    parameter_coverage=0.9993,
)  # fmt: skip


def gpu_manifest() -> Manifest:
    times = {1: 4.81, 8: 5.92, 32: 6.1, 128: 12.6}
    faster = {1: 0.54, 8: 0.88, 32: 1.72, 128: 5.22}
    target = Target(
        "cuda:0", "NVIDIA H200", ("sm_90", "132 SMs"), "2.11.0+cu130", "13.0", "Linux-x86_64", "3.12", "rtx 1.4.0.76"
    )
    ladder = (
        Candidate("eager", "fp32", "slower", "tensorrt fp16 static is 8.9 times as fast", (error(0.0),), times),
        Candidate(
            "tensorrt",
            "fp16",
            "chosen",
            "scripted: tracing would freeze a size",
            (error(2.4e-3), error(8e-4, name="features")),
            faster,
            41.0,
            45 * MB,
            "static",
            memory=320 * MB,
            hybrid=HYBRID,
            ignored=("use_fp32_acc",),
            graphs=(1, 8, 32, 128),
        ),
        Candidate(
            "tensorrt",
            "fp8",
            "inaccurate",
            "at batch 1: output 'probabilities' has NaN",
            (),
            {},
            55.0,
            44 * MB,
            "dynamic",
            hybrid=HYBRID,
        ),
    )
    base = cpu_manifest()
    return Manifest(
        key="b2" * 32,
        key_parts=base.key_parts,
        target=target,
        backend="tensorrt",
        precision="fp16",
        variant="static",
        inputs=(TensorSpec("image", "UINT8", (-1, 224, 224, 3)),),
        outputs=base.outputs,
        max_batch_size=128,
        buckets=(1, 8, 32, 128),
        ladder=ladder,
        files=(FileEntry("model/model.ts", 45 * MB, "d4" * 32),),
        stage_seconds={"load": 4.0, "reference": 3.1, "build": 96.0, "verify": 14.2, "race": 9.4},
        created="2026-08-01T12:00:00+00:00",
        origin="efficientnet/2",
    )
