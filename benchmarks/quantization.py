"""INT8 and half precision on a CPU: accuracy, time and size of every candidate of three models, by the compiler itself.

    python -m benchmarks.quantization [--out benchmarks/results/quantization.json] [--threads 2]

The digits model quantised after training, the same trained for it (models/digits/qat.py), and EfficientNet-Lite0 with
real weights on a hundred labelled crops of twenty ImageNet pictures. Times are those of the race: all candidates of a
model in turns, the median of each. Pictures come with scikit-image and foolbox (`pip install -e '.[demo,dev]'`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from safetensors.torch import save_file

from compiler import Artifact, Cache, Options, compile, detect_target, find_source
from compiler.manifest import Candidate
from compiler.spec import TensorSpec
from service.bench.results import describe_machine
from tests.compiler.quantize.pictures import calibration_crops, labelled_crops

MODELS = Path(__file__).parents[1] / "models"
DIGITS = Options(
    inputs=(TensorSpec("image", "FP32", (-1, 1, 8, 8), range=(0, 16)),),
    max_batch_size=64,
    buckets=(1, 8, 64),
    precisions=("fp32", "int8"),
)
EFFICIENTNET = Options(
    inputs=(TensorSpec("image", "UINT8", (-1, 224, 224, 3), range=(0, 255)),),
    max_batch_size=8,
    buckets=(1, 8),
    precisions=("fp32", "bf16", "int8"),
)


def main(out: Path, threads: int) -> None:
    """Compile the three models into an empty cache and write what came of every rung."""
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "models": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name, folder, options in prepare(root):
            options = msgspec.structs.replace(options, threads=threads)
            artifact = compile(find_source(folder), options, detect_target("cpu"), Cache(root / "cache"))
            results["models"][name] = summarise(artifact)
            show(name, artifact)
    out.write_text(json.dumps(results, indent=1) + "\n")


def prepare(root: Path) -> list[tuple[str, Path, Options]]:
    """(name, folder of the version, options) of each model; what is not in the tree is made under `root`."""
    subprocess.run([sys.executable, MODELS / "digits" / "qat.py", root / "qat"], check=True)
    efficientnet = root / "efficientnet"
    efficientnet.mkdir()
    shutil.copy(MODELS / "efficientnet_lite0" / "1" / "model.py", efficientnet)
    images, labels = labelled_crops(5)
    save_file({"image": calibration_crops()}, efficientnet / "calibration.safetensors")
    save_file({"image": images, "label": labels}, efficientnet / "samples.safetensors")
    return [
        ("digits", MODELS / "digits" / "1", DIGITS),
        ("digits, trained for INT8", root / "qat" / "1", DIGITS),
        ("efficientnet_lite0", efficientnet, EFFICIENTNET),
    ]


def summarise(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "samples": manifest.samples,
        "reference_accuracy": manifest.reference_accuracy,
        "seconds": round(artifact.seconds, 1),
        "ladder": [_summarise_rung(rung) for rung in manifest.ladder],
    }


def _summarise_rung(rung: Candidate) -> dict[str, Any]:
    return {
        "rung": rung.rung.name,
        "outcome": rung.outcome,
        "reason": rung.reason,
        "accuracy": rung.accuracy,
        "relative_l2": max((error.relative_l2 for error in rung.errors), default=None),
        "milliseconds": {batch: round(ms, 3) for batch, ms in rung.milliseconds.items()},
        "bytes": rung.size,
        "build_seconds": rung.build_seconds,
    }


def show(name: str, artifact: Artifact) -> None:
    print(f"\n{name}: {artifact.seconds:.0f} s, reference {artifact.manifest.reference_accuracy:.2%}")
    for rung in artifact.manifest.ladder:
        accuracy = f"{rung.accuracy:.2%}" if rung.accuracy is not None else "-"
        times = "  ".join(f"{batch}: {ms:.2f} ms" for batch, ms in rung.milliseconds.items())
        print(f"  {rung.rung.name:26} {rung.outcome:11} {accuracy:>8}  {times}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quantization.json"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    main(arguments.out, arguments.threads)
