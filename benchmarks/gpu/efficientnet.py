"""EfficientNet-B0 with random weights at four batch sizes, in every way that PyTorch and TensorRT can run it.

    python -m benchmarks.gpu.efficientnet            needs timm

The hybrid is compiled through the public door. With random weights its FP16 is seven times as far from FP32 as eager
FP16 is, so its tolerance is set wider here; the errors are in the result. `picture.py` draws the bars.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.common import arguments, device_ms, host_ms, relative_l2, write
from compiler import Artifact, Cache, Options, backends, compile, detect_target, find_source
from compiler.graphs import Graphs
from compiler.spec import TensorSpec, Tolerance
from service.runtime.cuda import CudaCall
from service.runtime.device import Device

BATCHES = (1, 8, 32, 128)
DEVICE = "cuda:0"
MODEL = """
import timm
import torch

def create_model():
    torch.manual_seed(0)
    return timm.create_model("efficientnet_b0", pretrained=False)
"""


def create_model() -> nn.Module:
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)
    model: nn.Module = namespace["create_model"]().eval().to(DEVICE)
    return model


def compile_hybrid(cache: Path) -> Artifact:
    folder = cache / "efficientnet_b0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MODEL)
    options = Options(
        inputs=(TensorSpec("image", "FP32", (-1, 3, 224, 224)),),
        max_batch_size=BATCHES[-1],
        buckets=BATCHES,
        backends=("tensorrt",),
        precisions=("fp16",),
        tolerances={"fp16": Tolerance(1e-1, 2e-1)},
        timeout_s=1800,
    )
    return compile(find_source(folder), options, detect_target(DEVICE), Cache(cache))


def optimised(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """torch.compile with CUDA graphs; one compilation for each batch size."""
    call: Callable[[Tensor], Tensor] = torch.compile(model, mode="reduce-overhead", dynamic=False)
    return call


def traced(half: nn.Module, x: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.trace(half, x))  # type: ignore[no-untyped-call]


def measure(artifact: Artifact) -> list[dict[str, Any]]:
    torch.backends.cudnn.benchmark = True
    exact = create_model()
    half = copy.deepcopy(exact).half().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    hybrid = backends.load(artifact.folder, artifact.manifest, DEVICE)
    fast, graphs = optimised(half), Graphs(hybrid, DEVICE)
    served = CudaCall(hybrid, Device(DEVICE, threads=2), BATCHES)
    rows = []
    with torch.inference_mode():
        for batch in reversed(BATCHES):
            x = torch.randn(batch, 3, 224, 224, device=DEVICE)
            narrow = x.half().contiguous(memory_format=torch.channels_last)
            script, why_plain = traced(half, narrow), graphs.capture((x,))
            graph = graphs.find(((batch, 3, 224, 224),))
            pinned = x.cpu().pin_memory()
            served.prepare((pinned,), batch)
            want = exact(x)
            took = {
                "eager fp32": host_ms(lambda x=x: exact(x)),
                "eager fp16": host_ms(lambda x=narrow: half(x)),
                "torchscript fp16": host_ms(lambda script=script, x=narrow: script(x)),
                "torch.compile fp16": host_ms(lambda x=narrow: fast(x)),
                "hybrid fp16": host_ms(lambda x=x: hybrid((x,))),
                "hybrid fp16, graph": host_ms(graph.replay) if graph is not None else None,
                "hybrid fp16, graph, host to host": host_ms(lambda pinned=pinned: served([pinned])),
            }
            rows.append(
                {
                    "batch": batch,
                    "milliseconds": took,
                    "graph_device_ms": device_ms(graph.replay) if graph is not None else None,
                    "why_no_graph": why_plain,
                    "relative_l2": {
                        "eager fp16": relative_l2(half(narrow), want),
                        "hybrid fp16": relative_l2(hybrid((x,))[0], want),
                    },
                }
            )
            print(rows[-1], flush=True)
    return rows[::-1]


def main() -> None:
    given = arguments(__doc__)
    artifact = compile_hybrid(given.cache)
    if given.prepare:
        fast = optimised(create_model().half().to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        with torch.inference_mode():
            for batch in reversed(BATCHES):
                x = torch.randn(batch, 3, 224, 224, device=DEVICE, dtype=torch.half)
                fast(x.contiguous(memory_format=torch.channels_last))
        return
    rows = measure(artifact)
    first = rows[0]
    graphed, device = first["milliseconds"]["hybrid fp16, graph"], first["graph_device_ms"]
    chosen = artifact.manifest.chosen
    write(
        "gpu_efficientnet",
        given.out,
        model="EfficientNet-B0 (timm, random weights), 224 x 224",
        rows=rows,
        speedup_over_eager_fp32_at_batch_1=round(first["milliseconds"]["eager fp32"] / graphed, 2),
        graph_over_its_device_time_at_batch_1=round(graphed / device, 3),
        rung=chosen.rung.name,
        coverage={"operators": chosen.hybrid.operator_coverage, "parameters": chosen.hybrid.parameter_coverage}
        if chosen.hybrid is not None
        else None,
        build_seconds={rung.rung.name: rung.build_seconds for rung in artifact.manifest.ladder},
    )


if __name__ == "__main__":
    main()
