"""Waiting requests to one batch that can be laid, and the outputs of the batch to the parts of each request.

Pure on shapes and buffers. `batch.py` and `padder.py` do it, the one as the requests are, the other with their sizes
padded; `models.py` runs what is stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from service.engine.batch import Stacked, stack, unstack
from service.engine.company import Sizes, room_of
from service.engine.messages import Infer
from service.engine.padder import Padder
from service.engine.queues import Waiting
from service.engine.rerun import RAN
from service.repository.catalog import Entry
from service.runtime.runner import Output

Part = tuple[tuple[int, ...], memoryview]


@dataclass(frozen=True, slots=True)
class Stack:
    """Requests as one batch, ready to be laid. Outputs whose indices are in `stays` are wanted on the GPU.

    `sizes` are those that it is padded to, where the model's inputs are.
    """

    requests: Sequence[Waiting]
    rows: list[int]
    bucket: int
    stacked: Stacked
    stays: frozenset[int]
    sizes: Sizes = ()

    @property
    def kind(self) -> tuple[int, Sizes]:
        """What two batches have in common that take the same time."""
        return self.bucket, self.sizes


class Stacker:
    """Of one model. `bucket(rows, room)` is the batch size for so many rows, in the room of those that are padded."""

    def __init__(self, entry: Entry, bucket: Callable[[int, Hashable], int]) -> None:
        pad = entry.batching.pad
        self._batched = entry.max_batch_size > 0
        self._bucket = bucket
        self._padder = None if pad is None else Padder(pad, entry.inputs, entry.outputs, entry.name)

    @property
    def pads(self) -> bool:
        return self._padder is not None

    def group(self, message: Infer) -> Hashable:
        """What must be equal for two requests to share a batch, or a Room. Raises InvalidInput."""
        alone = message.id if message.retry == RAN else None  # it may be deadly: nothing runs beside it
        if self._padder is not None:
            return self._padder.room(message.shapes, alone)
        shape = tuple([shape[1:] for shape in message.shapes]) if self._batched else message.shapes
        return shape if alone is None else (shape, alone)

    def stack(self, requests: Sequence[Waiting]) -> Stack:
        """One batch of them."""
        rows = [waiting.rows for waiting in requests]
        pending = [waiting.payload for waiting in requests]
        given = [(item.message.shapes, item.tensors) for item in pending]
        if self._padder is not None:
            room = room_of([waiting.shape for waiting in requests])
            bucket = self._bucket(sum(rows), room)
            return Stack(requests, rows, bucket, self._padder.stack(given, bucket, room.sizes), frozenset(), room.sizes)
        bucket = self._bucket(sum(rows), None) if self._batched else 1
        stays = pending[0].on_gpu
        for item in pending if stays else ():
            stays &= item.on_gpu
        return Stack(requests, rows, bucket, stack(given, bucket, self._batched), stays)

    def unstack(self, batch: Stack, outputs: Sequence[Output]) -> list[list[Part]]:
        """For each output what every request gets. Raises ValueError where an output is not as the batch is."""
        if self._padder is not None:
            own = [self._padder.own_sizes(waiting.payload.message.shapes) for waiting in batch.requests]
            return [
                self._padder.unstack(index, (output.shape, output.data), batch.rows, batch.kind, own)
                for index, output in enumerate(outputs)
            ]
        if self._batched:
            return [unstack(output.shape, output.data, batch.rows, batch.bucket) for output in outputs]
        return [[(output.shape, output.data)] for output in outputs]

    def elements(self, batch: Stack) -> tuple[int, int] | None:
        """Of inputs that are padded: elements of requests, and of padding. None where nothing is padded."""
        if self._padder is None:
            return None
        return self._padder.count(batch.stacked.shapes, [each.payload.message.shapes for each in batch.requests])
