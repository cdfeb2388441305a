"""What an artifact is: its files and their digests, inputs and outputs, the ladder of candidates and why one won.

Knows nothing of torch or of how an artifact is made. `package.py` writes manifests, the service reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from compiler.spec import Target, TensorSpec

MANIFEST_NAME = "manifest.json"
SCHEMA = 1

Outcome = Literal["chosen", "passed", "slower", "inaccurate", "failed", "skipped"]


class FileEntry(msgspec.Struct, frozen=True):
    """One file of an artifact, relative to its folder."""

    path: str
    size: int  # bytes
    sha256: str


class OutputError(msgspec.Struct, frozen=True):
    """The worst difference of one output from the float32 eager reference over all verified batch sizes."""

    name: str
    relative_l2: float
    max_abs: float  # relative to the largest magnitude of the reference


class Candidate(msgspec.Struct, frozen=True):
    """One rung of the ladder: what became of one backend at one precision, and why."""

    backend: str
    precision: str
    outcome: Outcome
    reason: str = ""
    errors: tuple[OutputError, ...] = ()
    milliseconds: dict[int, float] = {}  # batch size -> median time of one call
    build_seconds: float = 0.0
    size: int = 0  # bytes on disk


class Manifest(msgspec.Struct, frozen=True):
    """The whole description of an artifact; `manifest.json` in its folder.

    `inputs` and `outputs` are resolved: no name, datatype or rank is open any more, and the backend's callable takes
    and returns tensors in this order. `max_batch_size` 0: the model has no batch dimension and `buckets` is empty.
    """

    key: str
    key_parts: dict[str, str]
    target: Target
    backend: str
    precision: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    buckets: tuple[int, ...]
    ladder: tuple[Candidate, ...]
    files: tuple[FileEntry, ...]
    stage_seconds: dict[str, float]  # "load", "lower", "build", "verify", "race", ...
    created: str  # ISO 8601, UTC
    schema: int = SCHEMA

    @property
    def milliseconds(self) -> dict[int, float]:
        """The chosen candidate's time of one call, by batch size."""
        return next(rung.milliseconds for rung in self.ladder if rung.outcome == "chosen")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the artifact in `folder`. Raises OSError or msgspec.DecodeError without a sound one."""
    return msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=Manifest)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `manifest` into `folder` in a form that people can read."""
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
