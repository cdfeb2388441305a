"""The state of every living sequence of a model, as rows of tensors on its device.

Knows slots and rows, nothing of sequences or requests. `stateful.py` lays a batch's state with it and keeps what comes
out. All memory is taken at once, so that a model that does not fit says so when it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compiler.datatypes import TORCH_TYPES
from compiler.spec import TensorSpec
from service.runtime.device import Device

ZEROS = -1  # in place of a slot: nothing has been kept yet
CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # rows are moved, whatever their datatype


@dataclass(frozen=True, slots=True)
class Places:
    """For each row of a batch the slot whose state it gets; and which rows' state is then kept in which slots."""

    sources: tuple[int, ...]
    rows: tuple[int, ...]
    slots: tuple[int, ...]


class States:
    """`lay(places)` gives one tensor for each state, `keep(tensors, places)` takes what the model made of them.

    Threads that run different sequences may use it side by side.
    """

    def __init__(self, specs: Sequence[TensorSpec], slots: int, device: Device, *, batched: bool) -> None:
        self._device = device
        self._batched = batched
        self._dtypes = [TORCH_TYPES[spec.datatype] for spec in specs]
        rows = [spec.shape[1:] if batched else spec.shape for spec in specs]
        self._kept = [
            torch.zeros((slots + 1, *row), dtype=CARRIERS[dtype.itemsize], device=device.name)  # the last stays zeros
            for row, dtype in zip(rows, self._dtypes, strict=True)
        ]
        device.synchronize()  # other threads' streams read it

    def __repr__(self) -> str:
        size = sum(kept.nbytes for kept in self._kept)
        return f"<States of {len(self._kept)} tensors, {size} bytes on {self._device.name}>"

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What is kept, a row for each slot; the last row is zeros."""
        return tuple(self._kept)

    def shapes(self, bucket: int) -> list[tuple[int, ...]]:
        """What `lay` gives for a batch of `bucket` rows."""
        return [(bucket, *kept.shape[1:]) if self._batched else tuple(kept.shape[1:]) for kept in self._kept]

    def lay(self, places: Places, into: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """The state of the rows of a batch, copied: what the model does to it changes nothing here."""
        if not self._kept:
            return []
        index = self._index(places.sources)
        if into is None:
            into = [
                torch.empty(shape, dtype=dtype, device=self._device.name)
                for shape, dtype in zip(self.shapes(len(places.sources)), self._dtypes, strict=True)
            ]
        for kept, tensor in zip(self._kept, into, strict=True):
            target = self._carried(tensor)
            if isinstance(index, slice):
                target.copy_(kept[index])
            else:
                torch.index_select(kept, 0, index, out=target)
        return list(into)

    def keep(self, tensors: Sequence[torch.Tensor], places: Places) -> None:
        """Take the state of those rows that `places` names."""
        if not self._kept:
            return
        slots, rows = self._index(places.slots), self._index(places.rows)
        for kept, tensor in zip(self._kept, tensors, strict=True):
            source = self._carried(tensor)[rows]
            if isinstance(slots, slice):
                kept[slots] = source
            else:
                kept.index_copy_(0, slots, source)

    def find_difference(self, tensors: Sequence[torch.Tensor], bucket: int) -> str:
        """Why these cannot be kept; "" where they can."""
        for tensor, dtype, shape in zip(tensors, self._dtypes, self.shapes(bucket), strict=True):
            if tensor.dtype is not dtype or tuple(tensor.shape) != shape:
                return f"came as {tensor.dtype} {list(tensor.shape)}, expected {dtype} {list(shape)}"
        return ""

    def _carried(self, tensor: torch.Tensor) -> torch.Tensor:
        view = tensor.view(CARRIERS[tensor.dtype.itemsize])
        return view if self._batched else view.unsqueeze(0)

    def _index(self, numbers: Sequence[int]) -> slice | torch.Tensor:
        """A slice where they follow each other, which copies in one piece."""
        first = numbers[0]
        if first != ZEROS and all(number == first + offset for offset, number in enumerate(numbers)):
            return slice(first, first + len(numbers))
        last = len(self._kept[0]) - 1
        index = [last if number == ZEROS else number for number in numbers]
        host = torch.tensor(index, dtype=torch.int64, pin_memory=self._device.is_cuda)
        return host.to(self._device.name, non_blocking=True)
