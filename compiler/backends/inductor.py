"""AOTInductor: the exported program as a shared library, generated and compiled for this processor or GPU.

Needs a C++ compiler to build and none to load. `inductor_library.py` calls what was compiled for a processor.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from compiler.backends.inductor_library import CompiledLibrary, is_callable
from compiler.datatypes import quiet_torchscript
from compiler.errors import BuildFailed, ToolMissing
from compiler.jobs import Built, Interface, Place
from compiler.load import Opened
from compiler.lower import lower
from compiler.spec import Rung
from compiler.tools import find_cxx

FILE_NAME = "model.aoti.pt2"

CONFIG = {
    # Worth it for many builds with one cache folder; each of ours has its own, and pays ten seconds for nothing.
    "aot_inductor.precompile_headers": False,
}
# Weights become constants: only so are they packed for INT8 kernels, and not dequantised at every call.
INT8_CONFIG = {**CONFIG, "freezing": True}


def build(opened: Opened, interface: Interface, place: Place, out: Path, rung: Rung) -> Built:
    """Write model.aoti.pt2 into `out`. Raises ToolMissing, LowerFailed or BuildFailed."""
    if find_cxx() is None:
        raise ToolMissing("inductor needs a C++ compiler: install g++")
    if place.device != "cpu":
        _point_to_cuda()
    program = lower(opened, interface, place.device)
    try:
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                program,
                package_path=str(out / FILE_NAME),
                inductor_configs=INT8_CONFIG if rung.precision == "int8" else CONFIG,
            )
    except Exception as error:  # the compiler's own kinds are private
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        telling = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
        raise BuildFailed(f"AOTInductor failed: {type(error).__name__}: {telling[:300]}") from error
    return Built()


def load(folder: Path, interface: Interface, device: str) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Raises RuntimeError where the library does not fit this machine.

    Where torch's own loader is needed, a call on a processor holds Python's global lock as long as it computes.
    """
    package = folder / FILE_NAME
    if device == "cpu" and is_callable(package):
        return CompiledLibrary(package)
    index = int(device.partition(":")[2]) if device != "cpu" else -1
    if index >= 0:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # before the library takes device memory
    with quiet_torchscript():  # torch imports classes that use the deprecated decorators
        compiled = torch._inductor.aoti_load_package(str(package), device_index=index)
    run = compiled.loader.boxed_run  # tensors to tensors: nothing to parse at each call
    return lambda inputs: tuple(run(list(inputs)))


def _point_to_cuda() -> None:
    """Where no CUDA toolkit is installed, take the headers that come with torch's own CUDA packages from PyPI."""
    if os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or shutil.which("nvcc"):
        return
    if Path("/usr/local/cuda").exists():
        return
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for root in sorted(Path(folder).glob("cu[0-9]*"), reverse=True):
            if (root / "include" / "cuda_runtime_api.h").exists():
                os.environ["CUDA_HOME"] = str(root)
                return
