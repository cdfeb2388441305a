"""The sizing table of docs/scaling.md, from what the suites measured last: `python -m benchmarks.sizing` writes it.

Knows the results' files and the page, and measures nothing. `stack.py` and `gpu/models.py` do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/scaling.md"
START, END = "<!-- written by `python -m benchmarks.sizing` -->", "<!-- end -->"
PART = re.compile(f"{re.escape(START)}\n.*?{re.escape(END)}", re.DOTALL)

HTTP, JSON, GRPC = "torchere, HTTP binary", "torchere, HTTP JSON", "torchere, gRPC"
MODELS = {"mlp": "MLP 64-64-10", "cnn": "CNN on (3,64,64), 48 KB a request"}
WAYS = {HTTP: "HTTP with binary tensors", JSON: "HTTP with JSON", GRPC: "gRPC"}
SHOWN = (
    *(("mlp", HTTP, 64), ("mlp", HTTP, 8), ("mlp", GRPC, 64)),
    *(("cnn", HTTP, 64), ("cnn", GRPC, 64), ("cnn", JSON, 64)),
)
ON_GPU = {"resnet50": "ResNet-50", "vit_base_patch16_224": "ViT-B/16", "bert_base": "BERT base"}
BATCH = "32"

Results = Mapping[str, Any]


def table(stack: Results, gpu: Results) -> str:
    """The whole table."""
    head = (
        "| model | machine | one server gives | at | processor time for a request |",
        "|---|---|---|---|---|",
    )
    return "\n".join([*head, *_served(stack), *_computed(gpu)])


def _served(stack: Results) -> Iterator[str]:
    machine = f"{stack['machine']['cores']} cores of an {stack['machine']['processor']}, client beside it"
    for model, way, concurrency in SHOWN:
        row = _find(stack["rows"], model, way, concurrency)
        given = f"{row['requests_per_s']:,.0f} requests/s over {WAYS[way]}, p50 {row['latency_ms']['p50']:.2g} ms"
        spent = f"{row['server_cpu_us'] / 1000:.2g} ms"
        yield f"| {MODELS[model]} | {machine} | {given} | concurrency {concurrency} | {spent} |"


def _computed(gpu: Results) -> Iterator[str]:
    for name, title in ON_GPU.items():
        measured = gpu["models"][name]
        winner = next(rung for rung in measured["ladder"] if rung["rung"] == measured["winner"])
        taken_ms = winner["milliseconds"][BATCH]
        most = round(int(BATCH) * 1000 / taken_ms, -2)
        given = f"a batch of {BATCH} in {taken_ms:.2f} ms: at most {most:,.0f} rows/s of the device"
        yield f"| {title}, {measured['winner']} | one {gpu['machine']['gpu']} | {given} | batches of {BATCH} | |"


def page(text: str, stack: Results, gpu: Results) -> str:
    """The page with the table of these results."""
    return PART.sub(lambda _: f"{START}\n{table(stack, gpu)}\n{END}", text)


def current(text: str) -> str:
    """The page with the table of the results that lie in the repository."""
    return page(text, *(json.loads((RESULTS / f"{name}.json").read_text()) for name in ("stack", "gpu_models")))


def _find(rows: Sequence[Results], model: str, way: str, concurrency: int) -> Results:
    wanted = (model, way, concurrency)
    return next(row for row in rows if (row["model"], row["server"], row["level"]["concurrency"]) == wanted)


if __name__ == "__main__":
    PAGE.write_text(current(PAGE.read_text()))
