"""Run as a process of its own: load a candidate as an engine does, ask it every case, and say what came of it as JSON.

    python -m tests.gpu.reload FOLDER INTERFACE CASES

FOLDER has the backend's files, INTERFACE is a `compiler.jobs.Interface` in JSON, CASES torch.save of a list of
(inputs, wanted outputs). Every bucket is recorded as a CUDA graph where it can be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import torch

from compiler.backends import load_candidate
from compiler.graphs import Graphs
from compiler.jobs import Interface

COMPILERS = ("torch_tensorrt", "tensorrt", "tensorrt_rtx", "modelopt")


def main(folder: str, described: str, cases: str) -> dict[str, Any]:
    interface = msgspec.json.decode(Path(described).read_bytes(), type=Interface)
    model = load_candidate(Path(folder), "tensorrt", interface, "cuda:0")
    graphs = Graphs(model, "cuda:0")
    asked = torch.load(cases)
    refused = {}
    for inputs, _ in sorted(asked, key=lambda case: -len(case[0][0])):
        if len(inputs[0]) in interface.buckets:
            refused[len(inputs[0])] = graphs.capture(tuple(tensor.cuda() for tensor in inputs))
    differences = {}
    for inputs, wanted in asked:
        given = tuple(tensor.cuda() for tensor in inputs)
        for how, call in (("plain", model), ("replayed", graphs.replay)):
            got = call(given)
            error = max(float((a.cpu() - b).abs().max()) for a, b in zip(got, wanted, strict=True))
            shapes = [tuple(a.shape) == tuple(b.shape) for a, b in zip(got, wanted, strict=True)]
            differences[f"{how} {tuple(inputs[0].shape)}"] = error if all(shapes) else float("inf")
    imported = sorted(name for name in sys.modules if name in COMPILERS)
    graphed = sorted(rows for rows, reason in refused.items() if not reason)
    return {"imported": imported, "graphs": graphed, "differences": differences, "refused": refused}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:4])))
