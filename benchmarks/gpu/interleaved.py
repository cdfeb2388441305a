"""A model with operators that TensorRT lacks: its map, and its answers at every batch after reloading elsewhere.

    python -m benchmarks.gpu.interleaved

The artifact is read by a fresh process that never imports the compiler (tests/gpu/reload.py), at batch 1 to 32.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch

from benchmarks.gpu.common import arguments, write
from compiler import Cache, Options, compile, detect_target, find_source
from compiler.jobs import Interface
from tests.gpu.test_tensorrt_cuda import IMAGE, INTERLEAVED

ROOT = Path(__file__).parents[2]


def main() -> None:
    given = arguments(__doc__)
    folder = given.cache / "interleaved"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(INTERLEAVED)
    options = Options(
        inputs=(IMAGE,), max_batch_size=32, buckets=(1, 8, 32), backends=("tensorrt",), precisions=("tf32",)
    )
    artifact = compile(find_source(folder), options, detect_target("cuda:0"), Cache(given.cache))
    namespace: dict[str, Any] = {}
    exec(INTERLEAVED, namespace)
    model, cases = namespace["create_model"]().eval(), []
    with torch.inference_mode():
        for rows in range(1, 33):
            x = torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(rows))
            cases.append(((x,), (model(x),)))
    torch.save(cases, folder / "cases")
    manifest = artifact.manifest
    interface = Interface(manifest.inputs, manifest.outputs, manifest.max_batch_size, manifest.buckets)
    (folder / "interface").write_bytes(msgspec.json.encode(interface))
    paths = map(str, (artifact.folder / "model", folder / "interface", folder / "cases"))
    command = [sys.executable, "-m", "tests.gpu.reload", *paths]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    told = json.loads(answer.stdout.splitlines()[-1])
    chosen = artifact.manifest.chosen
    write(
        "gpu_interleaved",
        given.out,
        rung=chosen.rung.name,
        hybrid=msgspec.to_builtins(chosen.hybrid),
        compilers_imported_by_the_reloading_process=told["imported"],
        batches_replayed_as_graphs=told["graphs"],
        largest_difference_from_eager_fp32=max(told["differences"].values()),
        differences=told["differences"],
    )


if __name__ == "__main__":
    main()
