"""Makes an artifact's folder out of the winner's files: moves them into place, lists digests, writes the manifest.

Knows nothing of how the winner was found. `cache.py` publishes the folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from compiler.manifest import FileEntry, Manifest, write_manifest
from compiler.source import WARM_UP_NAME, file_digest

MODEL_FOLDER = "model"
LOG_NAME = "build.log"


def package(manifest: Manifest, candidate: Path, source: Path, log: Path, folder: Path) -> Manifest:
    """Fill `folder` with the candidate's files, what the source has to warm it up with, and the log.

    Returns `manifest` with the list of them.
    """
    folder.mkdir()
    candidate.rename(folder / MODEL_FOLDER)
    if (source / WARM_UP_NAME).is_file():
        shutil.copyfile(source / WARM_UP_NAME, folder / WARM_UP_NAME)
    if log.exists():
        shutil.copyfile(log, folder / LOG_NAME)
    manifest = msgspec.structs.replace(manifest, files=list_files(folder))
    write_manifest(manifest, folder)
    return manifest


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """Every file below `folder` with its size and digest."""
    return tuple(
        FileEntry(str(path.relative_to(folder)), path.stat().st_size, file_digest(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def folder_size(folder: Path) -> int:
    """Bytes of all files below `folder`; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
