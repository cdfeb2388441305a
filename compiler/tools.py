"""Says which of the tools that backends need are installed here, without importing any of them.

Knows nothing of torch or of backends' work. Backends ask before they build, `target.py` writes the versions into the
cache key, and `__init__.py` asks whether an artifact that was made without a tool should now be made again.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Callable

from compiler.manifest import Manifest

# Flavour, its distribution of Torch-TensorRT, and those of TensorRT itself: the first one installed has the version.
FLAVOURS = (
    ("rtx", "torch-tensorrt-rtx", ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12")),
    ("standard", "torch-tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")),
)
QUANTIZED = ("fp8", "int8")
QUANTIZERS = {"modelopt": "nvidia-modelopt", "torchao": "torchao"}


def find_cxx() -> str | None:
    """The path of the C++ compiler that AOTInductor will call: $CXX, else g++."""
    return shutil.which(os.environ.get("CXX") or "g++")


def find_tensorrt() -> str | None:
    """ "rtx 1.4.0.76, torch-tensorrt 2.11.0": what builds and runs engines here; None where something is missing."""
    for flavour, torch_tensorrt, libraries in FLAVOURS:
        bridge = _version(torch_tensorrt)
        versions = [version for name in libraries if (version := _version(name))]
        if bridge and versions:
            return f"{flavour} {versions[0]}, torch-tensorrt {bridge}"
    return None


def find_quantizers() -> str:
    """ "modelopt 0.47.0, torchao 0.18.0": the libraries that quantise and are installed."""
    found = {name: _version(distribution) for name, distribution in QUANTIZERS.items()}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def is_current(manifest: Manifest) -> bool:
    """False where a rung was skipped for want of a tool that is here now.

    Quantised rungs do not count: what quantises is part of the key, so that an artifact without it is another one.
    """
    tools: dict[str, Callable[[], str | None]] = {"inductor": find_cxx, "tensorrt": find_tensorrt}
    skipped = {
        rung.backend for rung in manifest.ladder if rung.outcome == "skipped" and rung.precision not in QUANTIZED
    }
    return not any(tools[backend]() for backend in skipped if backend in tools)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
