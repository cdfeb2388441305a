"""What a service adds to the latency of one client that is alone with EfficientNet-B0 on a GPU, from uint8 images.

    python -m benchmarks.gpu.lone               needs timm

The models of `serving.py` with few sizes, asked as in `benchmarks/lone.py`: by a client that sleeps until its answer
comes, as most do, and by one that looks for it, so that to wake it is no part of what is told. "added" is what either
takes longer than the CUDA graph alone by the host's clock. The result is written after each step.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.gpu.common import arguments, write
from benchmarks.gpu.serving import DEVICE, FRONTENDS, bare, write_models
from benchmarks.lone import serve, told
from service.bench.results import describe_machine

ROUNDS = 2
FEW = {"max_batch_size: 128": "max_batch_size: 8", "[1, 8, 32, 64, 128]": "[1, 8]"}
FLAGS = ("--device", DEVICE, "--startup", "wait", "--frontends", str(FRONTENDS))


def main() -> None:
    given = arguments(__doc__)
    found: dict[str, Any] = {"cpu": describe_machine(), "frontends": FRONTENDS, "rounds": ROUNDS}
    took: dict[str, tuple[list[float], list[Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        repository = Path(name)
        write_models(repository)
        for config in repository.glob("*/model.yaml"):
            text = config.read_text()
            for many, few in FEW.items():
                text = text.replace(many, few)
            config.write_text(text)
        for _ in range(ROUNDS):
            for model in ("classifier", "nothing"):
                for way, measured in serve(model, repository, given.cache, *FLAGS, "--models", model):
                    for all_of_it, more in zip(took.setdefault(f"{model}, {way}", ([], [])), measured, strict=True):
                        all_of_it.extend(more)
                    found["lone"] = {key: told(*each) for key, each in took.items()}
                    write("gpu_lone", given.out, **found)
    if DEVICE == "cpu":
        return
    limits = bare(given.cache)
    graph_us = 1e3 * limits["graph_host_ms"][1]
    added = {key: round(each["p50_us"] - graph_us) for key, each in found["lone"].items() if "classifier" in key}
    write("gpu_lone", given.out, **found, bare=limits, added_p50_us=added)


if __name__ == "__main__":
    main()
