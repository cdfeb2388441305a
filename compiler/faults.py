"""Says what is wrong with an artifact on disk: files that are not as they were built, or not where they belong.

Knows nothing of caches, locks or models. `cache.py` asks before it hands out an artifact, from whatever folder.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec

from compiler.manifest import MANIFEST_NAME, Manifest, read_manifest
from compiler.source import file_digest

SHOWN = 5  # names of wrong files in one sentence


def find_fault(folder: Path, key: str) -> str | None:
    """What is wrong with the artifact in `folder`: a sentence, or None where every file is as its manifest says.

    A link is a fault, whatever it leads to: what was verified could be changed behind it.
    """
    if folder.is_symlink():
        return f"{folder} is a link: an artifact is a folder of its own files"
    try:
        manifest = read_manifest(folder)
    except (OSError, msgspec.DecodeError) as error:
        return f"{folder / MANIFEST_NAME} cannot be read: {error}"
    if manifest.key != key:
        return f"{folder} holds the artifact of another key, {manifest.key}"
    try:
        return _find_wrong_path(folder, manifest) or _find_wrong_file(folder, manifest)
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"


def _find_wrong_path(folder: Path, manifest: Manifest) -> str | None:
    listed = {entry.path for entry in manifest.files}
    for path in sorted(listed):
        if not _stays_inside(path):
            return f"{folder / MANIFEST_NAME} lists '{path}', which is outside the artifact"
    there = set()
    for entry in _walk(folder):
        mode = entry.stat(follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode):
            return f"{entry.path} is {'a link' if stat.S_ISLNK(mode) else 'no plain file'}: an artifact has none"
        there.add(Path(entry.path).relative_to(folder).as_posix())
    odd = sorted((there - {MANIFEST_NAME}) ^ listed)
    if odd:
        more = f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
        return f"{folder} should hold other files: {', '.join(odd[:SHOWN])}{more}"
    return None


def _find_wrong_file(folder: Path, manifest: Manifest) -> str | None:
    for entry in manifest.files:
        path = folder / entry.path
        if path.stat().st_size != entry.size or file_digest(path) != entry.sha256:
            return f"{path} is not the file that was built"
    return None


def _stays_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything below `folder` that is not itself a folder; no link is followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path))
            else:
                yield entry
