"""Says for which machine an artifact is made: processor or GPU, its instruction sets, the versions of torch and CUDA.

Never imports torch: its version is read from the text of torch/version.py, a GPU is asked through the driver's library.
`key.py` makes every field of the answer a part of the cache key.
"""

from __future__ import annotations

import ast
import ctypes
import functools
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from compiler.errors import LoadFailed
from compiler.spec import Target
from compiler.tools import find_quantizers, find_tensorrt

# The flags by which torch, oneDNN and a C++ compiler choose other code; the dozens of others would only cause misses.
CODE_FLAGS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimddp", "sve", "sve2", "i8mm", "bf16"),
)

# CUdevice_attribute of the driver's cuda.h
SM_COUNT, CAPABILITY_MAJOR, CAPABILITY_MINOR = 16, 75, 76


def detect_target(device: str) -> Target:
    """The machine as it is, for `device` "cpu" or "cuda:N". Raises LoadFailed where there is no such device."""
    torch_version = read_torch_version()
    name, capabilities = _describe_cpu() if device == "cpu" else _describe_gpu(device)
    return Target(
        device=device,
        name=name,
        capabilities=capabilities,
        torch=f"{torch_version.get('__version__')}+git{str(torch_version.get('git_version') or '')[:12]}",
        cuda=torch_version.get("cuda"),
        system=f"{platform.system()}-{platform.machine()}",
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        tensorrt=(find_tensorrt() or "") if device != "cpu" else "",
        quantizers=find_quantizers(),
    )


def detect_devices() -> tuple[str, ...]:
    """("cuda:0", ...) where both torch and the driver can, else ("cpu",). Honours CUDA_VISIBLE_DEVICES."""
    if not read_torch_version().get("cuda"):
        return ("cpu",)
    driver = _open_driver()
    if driver is None:
        return ("cpu",)
    count = ctypes.c_int(0)
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return ("cpu",)
    return tuple(f"cuda:{index}" for index in range(count.value))


@functools.cache
def read_torch_version() -> Mapping[str, str | None]:
    """The assignments of torch/version.py: `__version__`, `git_version`, `cuda`. Raises LoadFailed without torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise LoadFailed("torch is not installed: pip install torch")
    return parse_version((Path(spec.submodule_search_locations[0]) / "version.py").read_text())


def parse_version(text: str) -> dict[str, str | None]:
    """The names that are assigned a string or None at the top of a Python file, without running it."""
    found: dict[str, str | None] = {}
    for statement in ast.parse(text).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str() | None as value)):
                found[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str() | None as value)):
                found[name] = value
            case _:
                continue
    return found


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """The processor's name and its flags that matter to code, from /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or fields.get("CPU part") or platform.processor() or platform.machine()
    return name, tuple(flag for flag in CODE_FLAGS if flag in flags)


def _describe_cpu() -> tuple[str, tuple[str, ...]]:
    cpuinfo = Path("/proc/cpuinfo")
    return parse_cpuinfo(cpuinfo.read_text() if cpuinfo.exists() else "")


def _open_driver() -> ctypes.CDLL | None:
    """The CUDA driver, started; None on a machine without one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver is the normal case on a CPU machine
        return None
    return driver if driver.cuInit(0) == 0 else None


def _describe_gpu(device: str) -> tuple[str, tuple[str, ...]]:
    """The GPU's name, ("sm_90", "132 SMs")."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number.isdigit():
        raise LoadFailed(f"unknown device '{device}': it is 'cpu', or 'cuda:0' and so on")
    if device not in detect_devices():
        raise LoadFailed(f"there is no device '{device}' here: the devices are {', '.join(detect_devices())}")
    driver = _open_driver()
    assert driver is not None, "detect_devices found it through the driver"
    handle, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(handle), int(number))
    driver.cuDeviceGetName(name, len(name), handle)
    values = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR, SM_COUNT):
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        values.append(value.value)
    major, minor, sms = values
    return name.value.decode(), (f"sm_{major}{minor}", f"{sms} SMs")
