"""The libraries that have PyTorch's INT8 kernels on a CPU, and how to choose one.

The choice counts when weights are packed: as a model is converted, and again as its file is loaded. It is a setting of
the whole process, but packed weights keep theirs, so that models of several engines run side by side afterwards.
Knows nothing of models. `fx.py` packs, `backends/torchscript.py` loads.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from compiler.errors import BuildFailed

FILE_NAME = "quantized_engine.txt"
DYNAMIC = ("x86", "qnnpack", "onednn")  # for Linear layers alone, best first: measured on 1 to 512 rows

_lock = threading.Lock()  # two models may be loaded at once


@contextlib.contextmanager
def packed_by(engine: str) -> Iterator[None]:
    """Inside, weights are packed for `engine`. Raises BuildFailed where this build of torch lacks it."""
    supported = torch.backends.quantized.supported_engines
    if engine not in supported:
        raise BuildFailed(f"this build of torch has no INT8 kernels by '{engine}': it has {', '.join(supported)}")
    with _lock:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            yield
        finally:
            torch.backends.quantized.engine = before


def find_dynamic_engine() -> str:
    """The engine for dynamic quantisation here."""
    supported = torch.backends.quantized.supported_engines
    return next((engine for engine in DYNAMIC if engine in supported), "none")


def engine_of(variant: str) -> str:
    """The engine of a variant of a TorchScript rung: "onednn", "x86", or what "dynamic" stands for here."""
    return find_dynamic_engine() if variant == "dynamic" else variant


def note_engine(folder: Path, engine: str) -> None:
    """Write down which engine the model in `folder` was made for."""
    (folder / FILE_NAME).write_text(engine + "\n")


@contextlib.contextmanager
def packed_as_noted(folder: Path) -> Iterator[None]:
    """As `packed_by` the engine that was noted in `folder`, and quiet; nothing changes where none was."""
    path = folder / FILE_NAME
    if not path.is_file():
        yield
        return
    with packed_by(path.read_text().strip()), quiet_torch_ao():
        yield


@contextlib.contextmanager
def quiet_torch_ao() -> Iterator[None]:
    """Silence what torch says of its quantised layers and tensors: deprecated, and all there in 2.13, our last.

    Its observers also remind us of a setting that is part of the recipe we ask for.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"torch\.ao\.quantization is deprecated", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor", category=UserWarning)
        warnings.filterwarnings("ignore", message="Please use quant_min and quant_max", category=UserWarning)
        yield
