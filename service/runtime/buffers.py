"""The memory that a batch is laid into: one staging tensor per input, pinned for a GPU, reused by every batch.

What lies on the GPU already is laid there, in memory of its own; what the GPU can copy by itself is not laid at all.
Knows shapes, datatypes and bytes, nothing of requests. One `Staging` belongs to one instance thread.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch

from compiler.datatypes import TORCH_TYPES
from compiler.spec import ITEM_SIZES, TensorSpec
from service.runtime.fetching import Fetch
from service.runtime.registered import Registered

MAX_SHAPES = 256  # whose tensors are kept; a model whose sizes are free may be asked for any
LARGE = 1 << 18  # bytes of a batch: below, looking at each part as a tensor takes longer than copying it


@dataclass(frozen=True, slots=True)
class Scattered:
    """Rows of one input in memory from which the GPU copies by itself: `filled` bytes, in `parts`, which hold it."""

    parts: Sequence[memoryview]
    addresses: Sequence[int]
    sizes: Sequence[int]
    filled: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    nbytes: int
    fetch: Fetch
    is_cuda: bool = False  # as a tensor that is yet to be brought there


Input = torch.Tensor | Scattered


def bring(source: Input, target: torch.Tensor, stream: int) -> None:
    """Copy to the GPU, in the current stream, which is CUDA's `stream`; what the parts do not fill is zero."""
    if isinstance(source, torch.Tensor):
        target.copy_(source, non_blocking=True)
        return
    source.fetch(source.addresses, source.sizes, target.data_ptr(), stream)
    if source.filled < source.nbytes:
        target.view(-1).view(torch.uint8)[source.filled :].zero_()


class Staging:
    """Rows of one input, side by side: `lay(parts, rows, shape)` returns the tensor of `rows` rows.

    Where all parts lie in memory that is `registered`, they stay there.
    """

    def __init__(self, spec: TensorSpec, pinned: bool, registered: Registered | None = None) -> None:
        self._dtype = TORCH_TYPES[spec.datatype]
        self._item = ITEM_SIZES[spec.datatype]
        self._pinned = pinned
        self._registered = registered
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._bytes = memoryview(bytearray())
        self._tensors: dict[tuple[int, ...], torch.Tensor] = {}  # of this memory, by shape

    def lay(self, parts: Sequence[memoryview | torch.Tensor], shape: tuple[int, ...]) -> Input:
        """The batch of `shape` for the GPU or the processor; what the parts do not fill is zero."""
        if self._registered is not None and (addresses := _addresses(parts)):
            sizes = list(map(len, parts))
            if self._registered.cover(addresses, sizes):
                lent, size = cast(Sequence[memoryview], parts), self._item * math.prod(shape)
                return Scattered(lent, addresses, sizes, sum(sizes), shape, self._dtype, size, self._registered.fetch)
        return self.pack(parts, shape)

    def pack(self, parts: Sequence[memoryview | torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
        """Copy `parts` one after the other into a tensor of `shape`.

        The tensor is a view of this staging memory: it is valid until the next call. Parts that are tensors are bytes
        on a GPU; where one is, the whole is laid on that GPU, in the current stream.
        """
        size = self._item * math.prod(shape)
        if size > len(self._bytes):
            self._memory = torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)
            self._bytes = memoryview(self._memory.numpy())  # type: ignore[arg-type]
            self._tensors.clear()
        at, on_gpu = 0, []
        if len(parts) > 1 and size >= LARGE and all(map(_is_plain, parts)):
            at = self._join(cast(Sequence[memoryview], parts))
            parts = ()
        for part in parts:
            end = at + len(part)
            if isinstance(part, torch.Tensor):
                on_gpu.append((at, part))
            else:
                self._bytes[at:end] = part
            at = end
        if at < size:
            self._memory[at:size].zero_()
        if on_gpu:
            return _gather(self._memory[:size], at, on_gpu).view(self._dtype).view(shape)
        found = self._tensors.get(shape)
        if found is None:
            if len(self._tensors) >= MAX_SHAPES:
                self._tensors.clear()
            found = self._tensors[shape] = self._memory[:size].view(self._dtype).view(shape)
        return found

    def _join(self, parts: Sequence[memoryview]) -> int:
        """All in one call, without the interpreter's lock, which those who read and answer need meanwhile."""
        end = sum(map(len, parts))
        torch.cat([torch.frombuffer(part, dtype=torch.uint8) for part in parts], out=self._memory[:end])
        return end


def _addresses(parts: Sequence[memoryview | torch.Tensor]) -> list[int]:
    """Where the bytes of all parts lie, of each of which there is one at least; nothing where that cannot be told.

    What is lent whole knows it; memory in which one may not write does not say it.
    """
    found = []
    for part in parts:
        if isinstance(part, torch.Tensor) or not len(part):
            return []
        lent = part.obj
        address: int | None = getattr(lent, "address", None)
        if address is None or getattr(lent, "nbytes", 0) != len(part):
            if part.readonly:
                return []
            address = ctypes.addressof(ctypes.c_char.from_buffer(part))
        found.append(address)
    return found


def _is_plain(part: memoryview | torch.Tensor) -> bool:
    """Whether torch can look at it as it is: of what is read-only it warns."""
    return not isinstance(part, torch.Tensor) and not part.readonly and len(part) > 0


def _gather(host: torch.Tensor, filled: int, parts: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """The bytes of `host` with `parts` at their places, on the GPU of the parts. Only the first `filled` are theirs."""
    whole = torch.empty(len(host), dtype=torch.uint8, device=parts[0][1].device)
    if sum(len(part) for _, part in parts) < filled:
        whole.copy_(host, non_blocking=True)  # other requests brought their bytes along
    else:
        whole[filled:].zero_()
    for at, part in parts:
        whole[at : at + len(part)].copy_(part, non_blocking=True)
    return whole


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor, uncopied; the view keeps the tensor alive. On a GPU they are a tensor too."""
    if not tensor.numel():
        return memoryview(b"")
    if tensor.dtype is not torch.bfloat16 and not tensor.is_cuda:  # numpy knows the others
        return memoryview(tensor.contiguous().numpy()).cast("B")  # type: ignore[arg-type]
    flat = tensor.contiguous().reshape(-1)
    if flat.is_cuda:
        return cast(memoryview, flat.view(torch.uint8))  # as what can be sliced and has a length: only the asker looks
    return memoryview(flat.view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]
