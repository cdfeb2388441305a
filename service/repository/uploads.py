"""Files that a load call brings: checked by name, written to a folder of the service's own, never to the repository.

Knows no protocol and no model. A frontend writes, the parent loads from there and removes it (`model_control.py`).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from service.errors import InvalidInput

UPLOADS = "uploads"
PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MAX_FILES = 1000
MAX_PARTS = 6


def write_upload(runtime_directory: Path, model: str, files: Mapping[str, bytes]) -> Path:
    """Write `files`, by path below the model's folder, as a repository of that one model. Raises InvalidInput.

    >>> write_upload(runtime, "digits", {"1/model.safetensors": data})
    Path(".../uploads/x7k2/")     # which holds digits/1/model.safetensors
    """
    if len(files) > MAX_FILES:
        raise InvalidInput(f"the load call brings {len(files)} files: at most {MAX_FILES} are taken")
    paths = {name: _check_path(name) for name in files}
    parent = runtime_directory / UPLOADS
    parent.mkdir(mode=0o700, exist_ok=True)
    repository = Path(tempfile.mkdtemp(dir=parent))
    try:
        for name, content in files.items():
            _write(repository / model / paths[name], content)
    except BaseException:
        shutil.rmtree(repository, ignore_errors=True)
        raise
    return repository


def remove_upload(runtime_directory: Path, repository: Path) -> None:
    """Remove what `write_upload` wrote; anything else is left alone."""
    if is_upload(runtime_directory, repository):
        shutil.rmtree(repository, ignore_errors=True)


def is_upload(runtime_directory: Path, repository: Path) -> bool:
    """Whether this folder is one that `write_upload` made."""
    return repository.parent == runtime_directory / UPLOADS and not repository.is_symlink()


def _check_path(name: str) -> Path:
    parts = name.split("/")
    if len(parts) > MAX_PARTS or not all(PART.fullmatch(part) for part in parts):
        raise InvalidInput(
            f"file '{name[:100]!r}': write its path below the model's folder, as 1/model.safetensors: "
            "letters, digits, '.', '_' and '-', beginning with none of the signs but '_'"
        )
    return Path(*parts)


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidInput(f"file '{path.name}' and another of the load call are in each other's place") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
