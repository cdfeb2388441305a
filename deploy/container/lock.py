"""Writes the lock of an image: every package that torchere and what it needs resolve to, with its version.

    python -m deploy.container.lock cpu > deploy/container/requirements-cpu.txt     (make lock)

Asks pip to resolve, and installs nothing. For the CPU pip must find PyTorch's build without CUDA: where it is not told,
set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. Knows nothing of images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEADER = "# Written by `make lock`: change pyproject.toml or deploy/container/lock.py, not this file.\n"

EXTRAS = {  # small, and whoever deploys an image cannot add to it
    "cpu": ("otel",),
    "gpu": ("otel", "nvml"),
}

# The release that has been run on GPUs. Its packages of TensorRT are sources that fetch NVIDIA's own wheels as they are
# installed, so that pip cannot resolve them on a machine without its index; they name each other's versions exactly.
GPU_TORCH = "torch==2.11.*"
TORCH_TENSORRT = {"torch-tensorrt": "2.11.0"}
TENSORRT = dict.fromkeys(("tensorrt", "tensorrt-cu13", "tensorrt-cu13-bindings", "tensorrt-cu13-libs"), "10.15.1.29")
TORCH_TENSORRT_NEEDS = ("packaging>=23", "dllist", "psutil")
GPU_PYTHON = "3.12"  # of Ubuntu 24.04, on which the image is built
PLATFORMS = ("linux_x86_64", "manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 39)))


def resolve(requirements: Sequence[str], *options: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    """The version of every distribution that pip would install for these requirements."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    done = subprocess.run(
        [*command, *options, *requirements], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    found = [item["metadata"] for item in json.loads(done.stdout)["install"]]
    return {item["name"]: item["version"].partition("+")[0] for item in found}


def lock_cpu(dependencies: Sequence[str]) -> dict[str, str]:
    """What the image for the CPU holds."""
    return resolve(dependencies)


def lock_gpu(dependencies: Sequence[str]) -> dict[str, str]:
    """What the image for GPUs holds: resolved for its Python and system, whatever those of this machine are."""
    others = [each for each in dependencies if not each.startswith("torch")]
    platforms = [word for each in PLATFORMS for word in ("--platform", each)]
    # Local files and settings would bring PyTorch's build for the CPU.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name == "PIP_CERT"}
    with tempfile.TemporaryDirectory() as target:
        versions = resolve(
            [GPU_TORCH, *others, *TORCH_TENSORRT_NEEDS],
            *("--target", target, "--only-binary=:all:", "--python-version", GPU_PYTHON, *platforms),
            environment={**clean, "PIP_CONFIG_FILE": os.devnull},
        )
    return {**versions, **TORCH_TENSORRT, **TENSORRT}


def main(target: str) -> None:
    """Print the lock of `cpu` or `gpu`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in EXTRAS[target] for each in project["optional-dependencies"][extra]),
    ]
    versions = {"cpu": lock_cpu, "gpu": lock_gpu}[target](wanted)
    lines = (f"{name}=={version}\n" for name, version in sorted(versions.items(), key=lambda item: item[0].lower()))
    sys.stdout.write(HEADER + "".join(lines))


if __name__ == "__main__":
    main(sys.argv[1])
