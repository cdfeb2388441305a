"""The model as its author wrote it: the source files themselves, run by PyTorch.

Always possible, and the reference that every other backend is compared with. Knows nothing of compilers; building
only copies, so it imports torch when it loads and not before: the compiling process builds it itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from compiler.jobs import Built, Interface, Place
from compiler.source import MAIN_FILES, WEIGHTS_NAME
from compiler.spec import Factory, Rung

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.load import Opened


FACTORY_NAME = "factory.json"


def build(opened: Opened | None, interface: Interface, place: Place, out: Path, rung: Rung) -> Built:
    """Copy the model's own files into `out`; the model need not be opened."""
    folder = Path(place.folder)
    for name in (*MAIN_FILES, WEIGHTS_NAME):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    if place.factory is not None:
        (out / FACTORY_NAME).write_bytes(msgspec.json.encode(place.factory))
    return Built()


def load(folder: Path, interface: Interface, device: str) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Raises LoadFailed."""
    from compiler.flat import Flat
    from compiler.load import open_model

    described = folder / FACTORY_NAME
    factory = msgspec.json.decode(described.read_bytes(), type=Factory) if described.is_file() else None
    flat = Flat(open_model(folder, device, factory=factory), tuple(spec.name for spec in interface.outputs))
    return lambda inputs: flat(*inputs)
