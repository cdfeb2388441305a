"""Run as a process of its own: load an artifact as an engine does, ask it every case, and say what came of it as JSON.

python -m tests.gpu.reload ARTIFACT CASES       CASES: torch.save of a list of (inputs, wanted outputs)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from compiler import backends
from compiler.graphs import Graphs
from compiler.manifest import read_manifest

COMPILERS = ("torch_tensorrt", "tensorrt", "tensorrt_rtx", "modelopt")


def main(artifact: str, cases: str) -> dict[str, Any]:
    manifest = read_manifest(Path(artifact))
    model = backends.load(Path(artifact), manifest, "cuda:0")
    graphs = Graphs(model, "cuda:0")
    asked = torch.load(cases)
    refused = {}
    for inputs, _ in sorted(asked, key=lambda case: -len(case[0][0])):
        rows = len(inputs[0])
        if rows in manifest.chosen.graphs:
            refused[rows] = graphs.capture(tuple(tensor.cuda() for tensor in inputs))
    differences = {}
    for inputs, wanted in asked:
        given = tuple(tensor.cuda() for tensor in inputs)
        for how, call in (("plain", model), ("replayed", graphs.replay)):
            got = call(given)
            error = max(float((a.cpu() - b).abs().max()) for a, b in zip(got, wanted, strict=True))
            shapes = [tuple(a.shape) == tuple(b.shape) for a, b in zip(got, wanted, strict=True)]
            differences[f"{how} {tuple(inputs[0].shape)}"] = error if all(shapes) else float("inf")
    imported = sorted(name for name in sys.modules if name in COMPILERS)
    return {"imported": imported, "graphs": sorted(graphs_of(refused)), "differences": differences, "refused": refused}


def graphs_of(refused: dict[int, str]) -> list[int]:
    return [rows for rows, reason in refused.items() if not reason]


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:3])))
