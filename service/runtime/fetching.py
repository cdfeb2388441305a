"""Has the GPU fetch many stretches of host memory, side by side, in one call: a call for each takes the host 5 µs.

Knows addresses only; the memory is registered with CUDA. `buffers.py` asks for the rows of a batch, `registered.py`
says which memory that is.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

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
    """`fetch(addresses, sizes, target, stream)` lays those bytes at `target` on the GPU, in that stream.

    Raises RuntimeError where CUDA refuses. What is fetched must stay until the stream has come so far.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        version = ctypes.c_int()
        code = runtime.cudaRuntimeGetVersion(ctypes.byref(version))
        self._is_batched = not code and BATCHED_SINCE <= version.value < BATCHED_UNTIL
        self._attributes = _Attributes(order=IN_STREAM_ORDER, flags=BESIDE_KERNELS)
        self._first = ctypes.c_size_t(0)  # the copy from which on they hold
        self._described = ctypes.addressof(self._attributes), ctypes.addressof(self._first), 1

    def __repr__(self) -> str:
        return f"<Fetch {'in one call' if self._is_batched else 'one by one'}>"

    def __call__(self, addresses: Sequence[int], sizes: Sequence[int], target: int, stream: int) -> None:
        # The default stream takes no batches.
        if len(sizes) > 1 and self._is_batched and stream:
            if not self._all(addresses, sizes, target, stream):
                return
            self._runtime.cudaGetLastError()  # or the next call of torch would be told of it
            self._is_batched = False
        for address, size in zip(addresses, sizes, strict=True):
            code = self._runtime.cudaMemcpyAsync(target, address, size, HOST_TO_DEVICE, stream)
            if code:
                self._runtime.cudaGetLastError()
                raise RuntimeError(f"CUDA does not copy from memory that frontends share (error {code})")
            target += size

    def _all(self, addresses: Sequence[int], sizes: Sequence[int], target: int, stream: int) -> int:
        """CUDA's error code, 0 where there is none."""
        targets = accumulate(sizes[:-1], initial=target)
        columns = [array("Q", each) for each in (targets, addresses, sizes)]
        places = [column.buffer_info()[0] for column in columns]
        code: int = self._runtime.cudaMemcpyBatchAsync(*places, len(sizes), *self._described, stream)
        return code
