"""In the engine of a GPU: the CUDA shared memory that clients have registered, and requests whose tensors lie there.

Tensors stay on the GPU for what takes and gives them there, and go by way of the host for the rest. `worker.py` asks it
of requests that say so, `runtime/memory.py` opens the memory. Knows no queue, no batch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from msgspec import structs

from service.engine.messages import CloseRegions, Failure, OpenRegion, RegionOpened, Result
from service.engine.served import Connection, Pending
from service.errors import Code, InvalidInput
from service.repository.catalog import Entry
from service.runtime.memory import CannotOpen, open_memory
from service.tensors import Place

log = logging.getLogger("torchere.engine")

Answer = tuple[Result | Failure, Sequence[memoryview]]
Open = Callable[[bytes, int, str], torch.Tensor]  # handle, bytes, device -> all of them, as uint8; raises CannotOpen


class RegionAnswers:
    """A connection for one request: `targets` are the bytes where the outputs of those indices go, not further."""

    def __init__(
        self, connection: Connection, targets: Mapping[int, torch.Tensor], entry: Entry, on_end: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._targets = targets
        self._entry = entry
        self._on_end = on_end

    def send(self, answers: Sequence[Answer]) -> None:
        """Write what goes to memory, and send the rest."""
        for message, _ in answers:
            if isinstance(message, Failure) or message.is_final:
                self._on_end()
        written = [self._write(message, blobs) for message, blobs in answers]
        for target in self._targets.values():
            if target.is_cuda:
                torch.cuda.current_stream(target.device).synchronize()  # whoever is answered may read
        self._connection.send(written)

    def _write(self, message: Result | Failure, blobs: Sequence[memoryview]) -> Answer:
        if isinstance(message, Failure):
            return message, blobs
        kept = list(blobs)
        for index, target in self._targets.items():
            name, data = self._entry.outputs[index].name, blobs[index]
            if len(data) > len(target):
                reason = f"output '{name}' has {len(data)} bytes, its shared_memory_byte_size is {len(target)}: "
                return Failure(message.id, Code.INVALID, f"{reason}make it {len(data)} or more"), ()
            try:
                write(target, data)
            except RuntimeError as error:
                log.exception("output '%s' could not be written to CUDA shared memory", name)
                return Failure(message.id, Code.FAILED, f"output '{name}': {type(error).__name__} while writing it"), ()
            kept[index] = memoryview(b"")
        return structs.replace(message, sizes=tuple(map(len, kept))), kept


class OpenRegions:
    """Any thread may use it. Memory is closed when it was told to and no request uses it."""

    def __init__(self, device: str, open_bytes: Open = open_memory) -> None:
        self._device = device  # as torch calls it here, whatever its number on the machine
        self._open_bytes = open_bytes
        self._bytes: dict[int, torch.Tensor] = {}
        self._reasons: dict[int, str] = {}  # why those are not open that a former engine held
        self._answers: dict[tuple[int, int], tuple[Connection, RegionAnswers]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<OpenRegions {len(self._bytes)}>"

    def open(self, order: OpenRegion) -> RegionOpened:
        """Do what the parent said; the answer to it."""
        region = order.region
        try:
            self._bytes[region.id] = self._open_bytes(order.handle, region.byte_size, self._device)
        except (CannotOpen, OSError, RuntimeError) as error:
            log.warning("a region of CUDA shared memory could not be opened: %s", error)
            reason = str(error) if isinstance(error, CannotOpen) else f"{type(error).__name__} while opening it"
            self._reasons[region.id] = f"shared memory region '{region.name}': {reason}"
            return RegionOpened(region.id, self._reasons[region.id])
        return RegionOpened(region.id)

    def close(self, order: CloseRegions) -> None:
        """Let go of them."""
        for number in order.ids:
            self._bytes.pop(number, None)
            self._reasons.pop(number, None)

    def take(self, pending: Pending, entry: Entry, *, stays: bool) -> Pending:
        """The request with its inputs, and with a connection that writes its outputs where they belong.

        `stays`: what serves it takes and gives bytes on the GPU. Raises InvalidInput where a region is gone.
        """
        places = pending.message.places
        assert places is not None, "asked for such requests only"
        tensors = list(pending.tensors)
        for place in places.inputs:
            part = self._find(place, f"input '{entry.inputs[place.index].name}'")
            tensors[place.index] = cast(memoryview, part) if stays else read(part)
        if not places.outputs:
            return structs.replace(pending, tensors=tensors)
        targets = {
            place.index: self._find(place, f"output '{entry.outputs[place.index].name}'") for place in places.outputs
        }
        key = id(pending.connection), pending.message.id
        answers = RegionAnswers(pending.connection, targets, entry, lambda: self._end(key))
        with self._lock:
            self._answers[key] = pending.connection, answers
        return structs.replace(
            pending, tensors=tensors, connection=answers, on_gpu=frozenset(targets) if stays else frozenset()
        )

    def leave(self, connection: Connection, request_id: int) -> Connection:
        """Its client has left, so that it may never be answered: what it was submitted with, which is not kept here.

        That is its own connection where that was not replaced.
        """
        with self._lock:
            _, answers = self._answers.pop((id(connection), request_id), (None, connection))
        return answers

    def forget(self, connection: Connection) -> list[Connection]:
        """What requests of this connection were submitted with; none of them is answered any more."""
        with self._lock:
            keys = [key for key, (behind, _) in self._answers.items() if behind is connection]
            return [self._answers.pop(key)[1] for key in keys]

    def _end(self, key: tuple[int, int]) -> None:
        with self._lock:
            self._answers.pop(key, None)

    def _find(self, place: Place, where: str) -> torch.Tensor:
        found = self._bytes.get(place.region)
        if found is None:
            reason = self._reasons.get(place.region, "its shared memory region is not registered any more")
            raise InvalidInput(f"{where}: {reason}: register it again")
        return found[place.offset : place.offset + place.byte_size]


def read(part: torch.Tensor) -> memoryview:
    """Bytes of a GPU, in host memory."""
    return memoryview(part.cpu().numpy()) if len(part) else memoryview(b"")  # type: ignore[arg-type]


def write(target: torch.Tensor, data: memoryview | torch.Tensor) -> None:
    """Put bytes at the beginning of `target`, in the current stream where they lie on a GPU."""
    if isinstance(data, torch.Tensor):
        target[: len(data)].copy_(data, non_blocking=True)
    elif len(data):
        source = bytearray(data) if data.readonly else data
        target[: len(data)].copy_(torch.frombuffer(source, dtype=torch.uint8))
