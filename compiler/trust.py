"""Decides whether a model's files may be opened: which formats can run code as they load, and whose word allows it.

Pure: no file is opened. Trust is no part of a model's key, since it changes whether a model is compiled and not what
comes out. `archive.py` checks the structure of what may be opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compiler.errors import LoadFailed
from compiler.spec import Source

# The files that are programs, and why. model.safetensors, calibration.safetensors and samples.safetensors are numbers.
REASONS = {
    "model.pt2": "a torch.export program can hold pickles and expressions, which run as it is opened",
    "model.pt": "a TorchScript file is a program, and torch has no safe way to open one",
    "model.py": "it is Python code",
    "calibration.py": "it is Python code",
}
SHIPPED_REASON = "a compiled artifact holds machine code"


def check_trust(source: Source, trusted: bool) -> None:
    """Raises LoadFailed, with the way out, where `source` can run code and nobody said that it may.

    >>> check_trust(find_source(folder, requires), trusted=config.trust or settings.trust)
    """
    reason = find_danger(source)
    if reason and not trusted:
        raise LoadFailed(_refusal(source.folder, reason))


def check_shipped(artifact: Path, version: Path, trusted: bool) -> None:
    """The same for an artifact that came with the model in `version`. Raises LoadFailed."""
    if not trusted:
        raise LoadFailed(_refusal(version, f"{artifact} can run code: {SHIPPED_REASON}"))


def check_steps(version: Path, files: Sequence[str], trusted: bool) -> None:
    """The same for Python files in `version` that run beside the model. Raises LoadFailed."""
    if files and not trusted:
        raise LoadFailed(_refusal(version, f"{version / files[0]} can run code: it is Python code"))


def find_danger(source: Source) -> str:
    """The first file that can run code and why, or "" where none can."""
    for name in source.files:
        if name in REASONS:
            return f"{source.folder / name} can run code: {REASONS[name]}"
    return ""


def _refusal(version: Path, danger: str) -> str:
    settings = version.parent / "model.yaml"
    return f"{danger}; if you trust where it came from, write `trust: true` in {settings}, or start with --trust"
