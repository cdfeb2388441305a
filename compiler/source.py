"""Finds the files of one model version and says how they are to be opened.

Knows nothing of torch and opens nothing: names and digests only. `load.py` opens what was found, in a builder process.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from compiler.errors import LoadFailed
from compiler.spec import Source

Kind = Literal["pt2", "torchscript", "python"]

MAIN_FILES: dict[str, Kind] = {"model.pt2": "pt2", "model.pt": "torchscript", "model.py": "python"}
WEIGHTS_NAME = "model.safetensors"
EXPECTED = "model.pt2 (torch.export), model.pt (TorchScript), or model.py with create_model() and model.safetensors"


def find_source(folder: Path, requires: tuple[str, ...] = ()) -> Source:
    """The model in `folder`; `requires` are the distributions that its model.py imports.

    Raises LoadFailed where there is no model file, or more than one.
    """
    found = [name for name in MAIN_FILES if (folder / name).is_file()]
    if not found:
        weights = " (model.safetensors alone is not a model: add model.py)" if (folder / WEIGHTS_NAME).is_file() else ""
        raise LoadFailed(f"{folder} holds no model{weights}: put one of these there: {EXPECTED}")
    if len(found) > 1:
        raise LoadFailed(
            f"{folder} holds both {' and '.join(found)}: keep the one to be served and move the other away"
        )
    main = found[0]
    files = (main, WEIGHTS_NAME) if main == "model.py" and (folder / WEIGHTS_NAME).is_file() else (main,)
    return Source(folder=folder, kind=MAIN_FILES[main], files=files, requires=tuple(requires))


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
