"""Memory of a GPU that another process owns: opened by its CUDA IPC handle, read and written within its bounds.

Knows no model and no request; calls the CUDA runtime that torch has loaded. `engine/regions.py` holds what is open.
Memory that is open here stays, whatever becomes of the process that owns it.
"""

from __future__ import annotations

import ctypes
import weakref
from pathlib import Path
from typing import Any

import torch

HANDLE_BYTES = 64
LAZY_PEER_ACCESS = 1  # cudaIpcMemLazyEnablePeerAccess, the only flag there is
DRIVER = "libcuda.so.1"


class CannotOpen(Exception):
    """The handle names no memory that can be opened here, or less than was said."""


class _Handle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * HANDLE_BYTES)]


def open_memory(handle: bytes, byte_size: int, device: str) -> torch.Tensor:
    """`byte_size` bytes on `device`, not copied; closed with the last tensor that shares them. Raises CannotOpen."""
    runtime = load_runtime()
    address = ctypes.c_void_p()
    with torch.cuda.device(device):
        code = runtime.cudaIpcOpenMemHandle(ctypes.byref(address), _Handle.from_buffer_copy(handle), LAZY_PEER_ACCESS)
        if code or address.value is None:
            runtime.cudaGetLastError()  # or the next call of torch would be told of it
            raise CannotOpen(f"CUDA does not open its handle (error {code})")
        exported = Exported(address.value, byte_size)
        weakref.finalize(exported, _close, runtime, address.value, device)
        there = _bytes_from(address.value)
        if byte_size > there:
            raise CannotOpen(f"byte_size is {byte_size}, the memory has {there}")
        return torch.as_tensor(exported, device=device)


class Exported:
    """An address as the interface by which libraries hand CUDA arrays to each other; tensors made of it hold it."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def load_runtime() -> Any:
    """The library of the CUDA runtime that torch uses, which has the context."""
    torch.cuda.init()  # type: ignore[no-untyped-call]
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libcudart" in line}
    if not paths:
        raise CannotOpen("this PyTorch has its CUDA runtime built in, out of reach")
    runtime = ctypes.CDLL(sorted(paths)[0])
    runtime.cudaIpcOpenMemHandle.argtypes = [ctypes.c_void_p, _Handle, ctypes.c_uint]
    runtime.cudaIpcCloseMemHandle.argtypes = [ctypes.c_void_p]
    address, size = ctypes.c_void_p, ctypes.c_size_t
    runtime.cudaMemcpyAsync.argtypes = (address, address, size, ctypes.c_int, address)
    if hasattr(runtime, "cudaMemcpyBatchAsync"):
        runtime.cudaMemcpyBatchAsync.argtypes = (*[address] * 3, size, address, address, size, address)
    return runtime


def _bytes_from(address: int) -> int:
    """How many bytes of the same allocation there are from this address on."""
    base, size = ctypes.c_ulonglong(), ctypes.c_size_t()
    code = ctypes.CDLL(DRIVER).cuMemGetAddressRange_v2(
        ctypes.byref(base), ctypes.byref(size), ctypes.c_ulonglong(address)
    )
    if code:
        raise CannotOpen(f"CUDA does not tell its size (error {code})")
    return base.value + size.value - address


def _close(runtime: Any, address: int, device: str) -> None:
    with torch.cuda.device(device):
        runtime.cudaIpcCloseMemHandle(address)
