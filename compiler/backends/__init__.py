"""The backends: one file each with the same two functions, imported only when asked for.

    build(opened, interface, place, out, rung) -> Built    writes its files into the folder `out`, says what is notable
    load(folder, interface, device) -> Callable            from those files alone

What `build` is given has been brought to the rung's precision already (`quantize`), casts at its borders included.

Knows nothing of how candidates are judged. Engines call `load` here; builders call both.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import BuildFailed
from compiler.jobs import Interface
from compiler.manifest import Manifest
from compiler.spec import BACKENDS

if TYPE_CHECKING:
    from torch import Tensor

    Model = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]

from compiler.package import MODEL_FOLDER


def load(artifact_folder: Path, manifest: Manifest, device: str) -> Model:
    """The artifact as a callable: tensors on `device` in the order of `manifest.inputs` -> those of `manifest.outputs`.

    It runs under inference_mode and may be called from one thread at a time. Raises BuildFailed, LoadFailed, or what
    torch raises for files of another machine.
    """
    interface = Interface(manifest.inputs, manifest.outputs, manifest.max_batch_size, manifest.buckets)
    return load_candidate(artifact_folder / MODEL_FOLDER, manifest.backend, interface, device)


def load_candidate(folder: Path, backend: str, interface: Interface, device: str) -> Model:
    """As `load`, from a backend's own files."""
    import torch

    from compiler.datatypes import set_exact_float32

    set_exact_float32()
    call: Model = find_backend(backend).load(folder, interface, device)

    def run(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if torch.is_inference_mode_enabled():  # to enter it again takes longer than a small operation
            return call(inputs)
        with torch.inference_mode():
            return call(inputs)

    return run


def find_backend(name: str) -> Any:
    """The module of a backend. Raises BuildFailed for a name that is none."""
    if name not in BACKENDS:
        raise BuildFailed(f"unknown backend '{name}': there are {', '.join(BACKENDS)}")
    return importlib.import_module(f"compiler.backends.{name}")
