"""Has the GPU fetch many stretches of host memory, side by side, in one call: a call for each takes the host 5 µs.

Knows addresses only; the memory is registered with CUDA. `buffers.py` asks for the rows of a batch, `registered.py`
says which memory that is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.uint64]
BATCHED_SINCE, BATCHED_UNTIL = 13000, 14000  # CUDA runtimes whose cudaMemcpyBatchAsync has the arguments used here
HOST_TO_DEVICE = 1  # cudaMemcpyHostToDevice
IN_STREAM_ORDER = 1  # cudaMemcpySrcAccessOrderStream: read when it is the copy's turn
BESIDE_KERNELS = 1  # cudaMemcpyFlagPreferOverlapWithCompute


class _Location(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("order", ctypes.c_int),
        ("source", _Location),
        ("target", _Location),
        ("flags", ctypes.c_uint),
    ]


class Fetch:
    """`fetch(addresses, sizes, target)` lays those bytes at `target` on the GPU, in the stream that `stream()` names.

    Raises RuntimeError where CUDA refuses. What is fetched must stay until that stream has come so far.
    """

    def __init__(self, runtime: Any, stream: Callable[[], int]) -> None:
        self._runtime = runtime
        self._stream = stream
        version = ctypes.c_int()
        code = runtime.cudaRuntimeGetVersion(ctypes.byref(version))
        self._is_batched = not code and BATCHED_SINCE <= version.value < BATCHED_UNTIL
        self._attributes = _Attributes(order=IN_STREAM_ORDER, flags=BESIDE_KERNELS)
        self._first = ctypes.c_size_t(0)  # the copy from which on they hold

    def __repr__(self) -> str:
        return f"<Fetch {'in one call' if self._is_batched else 'one by one'}>"

    def __call__(self, addresses: Numbers, sizes: Numbers, target: int) -> None:
        stream = ctypes.c_void_p(self._stream())
        targets = np.cumsum(sizes)
        targets -= sizes
        targets += np.uint64(target)
        # The default stream takes no batches.
        if len(sizes) > 1 and self._is_batched and stream.value:
            if not self._all(addresses, sizes, targets, stream):
                return
            self._runtime.cudaGetLastError()  # or the next call of torch would be told of it
            self._is_batched = False
        for each, size, address in zip(targets.tolist(), sizes.tolist(), addresses.tolist(), strict=True):
            code = self._runtime.cudaMemcpyAsync(
                ctypes.c_void_p(each), ctypes.c_void_p(address), ctypes.c_size_t(size), HOST_TO_DEVICE, stream
            )
            if code:
                self._runtime.cudaGetLastError()
                raise RuntimeError(f"CUDA does not copy from memory that frontends share (error {code})")

    def _all(self, addresses: Numbers, sizes: Numbers, targets: Numbers, stream: ctypes.c_void_p) -> int:
        """CUDA's error code, 0 where there is none."""
        code: int = self._runtime.cudaMemcpyBatchAsync(
            ctypes.c_void_p(targets.ctypes.data),
            ctypes.c_void_p(addresses.ctypes.data),
            ctypes.c_void_p(sizes.ctypes.data),
            ctypes.c_size_t(len(sizes)),
            ctypes.byref(self._attributes),
            ctypes.byref(self._first),
            ctypes.c_size_t(1),
            stream,
        )
        return code
