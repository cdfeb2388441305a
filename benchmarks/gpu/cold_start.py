"""From a cached artifact to the first answer, stage by stage, in fresh processes.

    python -m benchmarks.gpu.cold_start      after benchmarks.gpu.efficientnet, whose artifact it starts

The parts are what an engine process does before it may be asked: each is timed by the process that does it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUNS = 3


def start(folder: str) -> dict[str, float]:
    """What one engine goes through; runs in a process of its own."""
    stages: dict[str, float] = {}
    last = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        stages[stage] = round(now - last, 3)
        last = now

    import torch

    done("import torch")
    torch.zeros(1, device="cuda:0")
    torch.cuda.synchronize()
    done("start CUDA")
    from compiler import backends
    from compiler.manifest import read_manifest

    manifest = read_manifest(Path(folder))
    if manifest.backend == "tensorrt":
        from compiler.backends.tensorrt_library import load_runtime

        load_runtime()
    done("load the runtime library")
    model = backends.load(Path(folder), manifest, "cuda:0")
    done("load the model")
    from compiler.golden import random_inputs
    from compiler.graphs import Graphs

    graphs = Graphs(model, "cuda:0")
    batches = {rows: random_inputs(manifest.inputs, rows, 0) for rows in sorted(manifest.buckets, reverse=True)}
    given = {rows: tuple(tensor.cuda() for tensor in inputs) for rows, inputs in batches.items()}
    for inputs in given.values():
        model(inputs)
    torch.cuda.synchronize()
    done("first call of each batch size")
    for inputs in given.values():
        graphs.capture(inputs, is_known=True)
    done("record the graphs")
    graphs.replay(given[min(given)])[0].cpu()
    done("first answer")
    return stages


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--start":
        print(json.dumps(start(sys.argv[2])))
        return
    from benchmarks.gpu.common import arguments, write
    from benchmarks.gpu.efficientnet import compile_hybrid

    given = arguments(__doc__)
    started = time.perf_counter()
    artifact = compile_hybrid(given.cache)
    found_s = time.perf_counter() - started
    runs: list[dict[str, Any]] = []
    for _ in range(RUNS):
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.gpu.cold_start", "--start", str(artifact.folder)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        stages = json.loads(answer.stdout.splitlines()[-1])
        runs.append({**stages, "whole process": round(time.perf_counter() - began, 3)})
        print(runs[-1], flush=True)
    medians = {stage: round(statistics.median(run[stage] for run in runs), 3) for stage in runs[0]}
    write(
        "gpu_cold_start",
        given.out,
        model="EfficientNet-B0 (timm, random weights), 224 x 224",
        rung=artifact.manifest.chosen.rung.name,
        buckets=artifact.manifest.buckets,
        was_cached=artifact.cached,
        seconds_to_find_and_verify_the_artifact=round(found_s, 3),
        seconds=medians,
        runs=runs,
    )


if __name__ == "__main__":
    main()
