"""The file of results: what was measured, how, on which machine, with which versions, and what came of it.

Pure but for looking at the machine. `show.py` prints the same for people.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

PACKAGES = ("torchere", "torch", "numpy", "fastapi", "uvicorn", "uvloop", "httptools", "grpcio")
CPU_INFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, kernel, and the versions that decide about speed."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "load_average_before": round(os.getloadavg()[0], 2),  # what others did on the machine
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def write_results(file: Path, content: Mapping[str, Any]) -> None:
    """As indented JSON, whole or not at all."""
    text = msgspec.json.format(msgspec.json.encode(content), indent=1)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(text + b"\n")
    draft.replace(file)


def _processor() -> str:
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
