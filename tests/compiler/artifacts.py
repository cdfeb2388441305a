"""Small sound artifacts for the tests of the cache, made without torch; children of the tests import this too."""

from __future__ import annotations

from pathlib import Path

from compiler.manifest import Candidate, Manifest, write_manifest
from compiler.package import list_files
from compiler.spec import Target

KEY, OTHER = "a1" * 32, "b2" * 32


def make_artifact(folder: Path, key: str = KEY, content: bytes = b"weights") -> Path:
    """An artifact in `folder`/artifact."""
    artifact = folder / "artifact"
    artifact.mkdir()
    (artifact / "model.ts").write_bytes(content)
    manifest = Manifest(
        key=key,
        key_parts={},
        target=Target("cpu", "test", (), "0", None, "Linux", "3"),
        backend="eager",
        precision="fp32",
        inputs=(),
        outputs=(),
        max_batch_size=0,
        buckets=(),
        ladder=(Candidate("eager", "fp32", "chosen", milliseconds={1: 1.0}),),
        files=list_files(artifact),
        stage_seconds={},
        created="2026-01-01T00:00:00+00:00",
    )
    write_manifest(manifest, artifact)
    return artifact


def never(workspace: Path) -> Path:
    raise AssertionError("a hit builds nothing")
