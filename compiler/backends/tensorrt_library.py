"""Finds and loads Torch-TensorRT: all of it to build, its runtime library alone to serve.

Knows nothing of models. `import torch_tensorrt` takes 15 seconds and brings a compiler; a saved hybrid needs only the
library that knows how to run engines, which loads in a tenth of a second.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

from compiler.errors import BuildFailed, ToolMissing
from compiler.tools import find_tensorrt

MISSING = (
    "TensorRT is not installed: pip install 'torchere[tensorrt]' or 'torchere[tensorrt-rtx]', of which only one may be "
    "installed at a time"
)

# Where the packages from PyPI keep TensorRT's own libraries, and their names; the first of each row is needed.
RUNTIMES = {
    "rtx": ("tensorrt_rtx_libs", ("libtensorrt_rtx.so.1",)),
    "standard": ("tensorrt_libs", ("libnvinfer.so.*", "libnvinfer_plugin.so.*")),
}
RUNTIME_LIBRARY = "libtorchtrt_runtime.so"


def import_torch_tensorrt(*, is_quantized: bool) -> Any:
    """The compiler's module. Raises ToolMissing or BuildFailed.

    ModelOpt registers the operators that Torch-TensorRT looks for when it is imported, so it comes first.
    """
    if find_tensorrt() is None:
        raise ToolMissing(MISSING)
    if is_quantized:
        importlib.import_module("modelopt.torch.quantization")
    _hide_broken_plugins()
    try:
        return importlib.import_module("torch_tensorrt")
    except Exception as error:  # its own checks of the installation raise plain Exception
        raise BuildFailed(f"torch_tensorrt cannot be imported: {type(error).__name__}: {error}") from error


def load_runtime() -> None:
    """Make `torch.jit.load` able to read engines, without importing torch_tensorrt. Raises ToolMissing or OSError."""
    if "torch_tensorrt" in sys.modules:
        return  # it has loaded the library, whose classes may be registered only once
    flavour = find_tensorrt()
    package = importlib.util.find_spec("torch_tensorrt")  # finds it, does not run it
    if flavour is None or package is None or not package.submodule_search_locations:
        raise ToolMissing(MISSING)
    folder, names = RUNTIMES[flavour.split()[0]]
    for needed in find_libraries(folder, names):
        ctypes.CDLL(str(needed), mode=ctypes.RTLD_GLOBAL)
    library = Path(package.submodule_search_locations[0]) / "lib" / RUNTIME_LIBRARY
    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]


def find_libraries(package: str, names: tuple[str, ...]) -> tuple[Path, ...]:
    """The files of `package` that match `names`, in their order; none where the system's own will be found by name."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return ()
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    return tuple(path for name in names for folder in folders for path in sorted(folder.glob(name))[:1])


def _hide_broken_plugins() -> None:
    """TensorRT-RTX 1.4 ships a `plugin` package without the bindings it imports, and torch_tensorrt trips over it.

    A None in sys.modules is Python's way to say that there is no such module: torch_tensorrt then goes without plugins.
    """
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None or "tensorrt.plugin" in sys.modules:
        return
    if importlib.util.find_spec("tensorrt_rtx_bindings.plugin") is None:
        sys.modules["tensorrt.plugin"] = None  # type: ignore[assignment]
