"""What the GPU measurements share: the clock, the machine's description, where a result goes.

Knows no models. Every figure is a median of calls after warm-up; "device" is the GPU's own clock, everything else the
host's around a synchronised call.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parents[1] / "results"
WARM_UP_CALLS, CALLS = 20, 100
PACKAGES = ("torch", "torch-tensorrt-rtx", "torch-tensorrt", "nvidia-modelopt", "timm", "transformers")


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--cache", type=Path, default=Path("/tmp/torchere-gpu-cache"), help="cache of artifacts")
    parser.add_argument("--prepare", action="store_true", help="fill the caches and measure nothing")
    parser.add_argument("--after", type=Path, help="begin to race only when this file exists")
    return parser.parse_args()


def machine() -> dict[str, Any]:
    from compiler.tools import find_tensorrt

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "gpu": torch.cuda.get_device_name(0),
        "sm": ".".join(map(str, torch.cuda.get_device_capability(0))),
        "cuda": torch.version.cuda,
        "tensorrt": find_tensorrt(),
        "python": platform.python_version(),
        "versions": versions,
    }


def write(name: str, out: Path, **result: Any) -> None:
    out.mkdir(parents=True, exist_ok=True)
    main = sys.modules["__main__"].__spec__
    command = f"python -m {main.name if main is not None else sys.argv[0]}"
    described = {"machine": machine(), "command": command, "date": time.strftime("%Y-%m-%d"), **result}
    (out / f"{name}.json").write_text(json.dumps(described, indent=1) + "\n")
    print(f"wrote {out / name}.json", flush=True)


def host_ms(call: Callable[[], object], calls: int = CALLS) -> float:
    """Median milliseconds of one call by the host's clock, the GPU idle before and after."""
    for _ in range(WARM_UP_CALLS):
        call()
    taken = []
    for _ in range(calls):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - started) * 1e3)
    return round(statistics.median(taken), 4)


def device_ms(call: Callable[[], object], calls: int = CALLS) -> float:
    """Median milliseconds of one call by the GPU's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    taken = []
    for _ in range(WARM_UP_CALLS + calls):
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end))
    return round(statistics.median(taken[WARM_UP_CALLS:]), 4)


def relative_l2(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())
