"""Finds the files of one model version and says how they are to be opened.

Knows nothing of torch and opens nothing: names and digests only. `trust.py` says whether they may be opened, `load.py`
opens what was found, in a builder process.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from compiler.errors import LoadFailed
from compiler.factories import find_distribution
from compiler.spec import Factory, Source

Kind = Literal["pt2", "torchscript", "python", "factory"]

MAIN_FILES: dict[str, Kind] = {"model.pt2": "pt2", "model.pt": "torchscript", "model.py": "python"}
WEIGHTS_NAME = "model.safetensors"
WARM_UP_NAME = "warm_up.safetensors"  # goes into the artifact, to be run before it serves
# Read while a model is quantised and compared: what they hold changes what is built.
BESIDE = ("calibration.safetensors", "calibration.py", "samples.safetensors", WARM_UP_NAME)
EXPECTED = (
    "model.pt2 (torch.export), model.pt (TorchScript), model.py with create_model() and model.safetensors, or "
    "model.safetensors alone with `factory` in model.yaml"
)
FOREIGN = ("model.pth", "model.pkl", "model.ckpt", "pytorch_model.bin", "checkpoint.pt")  # pickles, as people have them
FOREIGN_REMEDY = (
    "save its weights with safetensors.torch.save_file(model.state_dict(), 'model.safetensors') and add model.py with "
    "create_model() or `factory` in model.yaml; or export it to model.pt2 with torch.export.save"
)


def find_source(folder: Path, requires: tuple[str, ...] = (), factory: Factory | None = None) -> Source:
    """The model in `folder`; `requires` are the distributions that its model.py imports, `factory` is what makes it.

    Raises LoadFailed where there is no model file, or more than one, or no such factory.
    """
    files = find_model_files(folder)
    kind = MAIN_FILES.get(files[0], "factory") if files else "factory"
    if factory is not None and files[:1] != (WEIGHTS_NAME,):
        raise LoadFailed(_misses_weights(folder, files))
    if not files or (factory is None and kind == "factory"):
        raise LoadFailed(_holds_no_model(folder, bool(files)))
    distribution = find_distribution(factory) if factory is not None else ""
    beside = tuple(name for name in BESIDE if (folder / name).is_file())
    return Source(
        folder=folder,
        kind=kind,
        files=(*files, *beside),
        requires=tuple(sorted({*requires, *filter(None, (distribution,))})),
        factory=factory,
    )


def find_model_files(folder: Path) -> tuple[str, ...]:
    """What opening the model needs, its main file first: () where there is none. Raises LoadFailed for several."""
    found = [name for name in MAIN_FILES if (folder / name).is_file()]
    if len(found) > 1:
        raise LoadFailed(
            f"{folder} holds both {' and '.join(found)}: keep the one to be served and move the other away"
        )
    has_weights = found in ([], ["model.py"]) and (folder / WEIGHTS_NAME).is_file()
    return (*found, WEIGHTS_NAME) if has_weights else tuple(found)


def origin_of(folder: str | Path) -> str:
    """`digits/1`: the model and version that a folder is, without the rest of its path."""
    return "/".join(Path(folder).resolve().parts[-2:])


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _misses_weights(folder: Path, files: tuple[str, ...]) -> str:
    if files:
        return f"{folder} holds {files[0]}, but model.yaml names a factory: move the file away, or remove `factory`"
    return f"{folder} lacks {WEIGHTS_NAME}, the weights of the factory in model.yaml: put it there"


def _holds_no_model(folder: Path, has_weights: bool) -> str:
    foreign = next((name for name in FOREIGN if (folder / name).is_file()), None)
    if foreign is not None:
        return f"{folder / foreign} is a pickle, which can run code as it is opened: {FOREIGN_REMEDY}"
    weights = f" ({WEIGHTS_NAME} alone is weights: add model.py, or `factory` to model.yaml)" if has_weights else ""
    return f"{folder} holds no model{weights}: put one of these there: {EXPECTED}"
