"""The model as its author wrote it: the source files themselves, run by PyTorch.

Always possible, and the reference that every other backend is compared with. Knows nothing of compilers; building
only copies, so it imports torch when it loads and not before: the compiling process builds it itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.jobs import Interface, Place
from compiler.source import find_source

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.load import Opened


def build(opened: Opened | None, interface: Interface, place: Place, out: Path) -> str:
    """Copy the source files into `out`; the model need not be opened."""
    folder = Path(place.folder)
    for name in find_source(folder).files:
        shutil.copyfile(folder / name, out / name)
    return ""


def load(folder: Path, interface: Interface, device: str) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Raises LoadFailed."""
    from compiler.flat import Flat
    from compiler.load import open_model

    flat = Flat(open_model(folder, device), tuple(spec.name for spec in interface.outputs))
    return lambda inputs: flat(*inputs)
