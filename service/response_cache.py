"""Answers that are kept, for models that say so: the same inputs to the same artifact need not be computed again.

Pure, an LRU bounded in bytes; knows no protocol and no engine. `plane.py` asks before it asks an engine, and applies
what a request wants of the outputs (which, as classes, in shared memory) on top of what is kept.

    cache.follow(catalog)                   what artifacts answered that serve no more is dropped
    cache.get(source, digest)           ->  the outputs, or None
    cache.put(source, digest, outputs)
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from service.repository.catalog import Catalog, Entry
from service.tensors import Buffer, Tensor

# What gives an answer: model, version, contract, number of the artifact, and what else model.yaml says of computing it;
# then the same of an ensemble's models. A late answer of what was replaced is thus never found as its successor's.
Source = tuple[str | int, ...]

DIGEST_BYTES = 32  # nobody finds two inputs with the same digest, neither by chance nor by searching
# Measured with tracemalloc on CPython 3.11 to 3.13, and rounded up: a place in the table with its key, then a tensor's
# value, its shape and the bytes object around its data.
ENTRY_BYTES = 512
TENSOR_BYTES = 256
DIMENSION_BYTES = 40
LARGEST_SHARE = 8  # an answer larger than this part of the cache would push out too much that is asked for more often
IN_LOOP_BYTES = 1 << 20  # BLAKE2b takes 0.9 GB/s: what takes longer than a millisecond is digested in a thread


class ResponseCache:
    """At most `max_bytes`, counting what surrounds the tensors; what was asked for longest ago goes first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._kept: OrderedDict[tuple[Source, bytes], tuple[Tensor, ...]] = OrderedDict()
        self._sources: dict[tuple[str, str], Source] = {}

    def __repr__(self) -> str:
        return f"<ResponseCache {len(self._kept)} answers, {self.bytes} of {self.max_bytes} bytes>"

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, source: Source, digest: bytes) -> tuple[Tensor, ...] | None:
        """What `source` answered to inputs with this digest."""
        found = self._kept.get((source, digest))
        if found is not None:
            self._kept.move_to_end((source, digest))
        return found

    def put(self, source: Source, digest: bytes, outputs: Sequence[Tensor]) -> None:
        """Keep a copy of outputs that are not too large, where `source` still serves; what they view is larger."""
        size = _size(outputs)
        if size > self.max_bytes // LARGEST_SHARE or source not in self._sources.values():
            return
        self._drop((source, digest))
        while self.bytes + size > self.max_bytes:
            self._drop(next(iter(self._kept)))
        self._kept[source, digest] = tuple(
            [Tensor(each.name, each.datatype, each.shape, bytes(each.data)) for each in outputs]
        )
        self.bytes += size

    def follow(self, catalog: Catalog) -> None:
        """Go by what serves now: drop what others answered."""
        kept = [entry for entry in catalog.entries() if entry.is_ready and entry.response_cache]
        self._sources = {(entry.name, entry.version): source_of(entry, catalog) for entry in kept}
        alive = set(self._sources.values())
        for key in [key for key in self._kept if key[0] not in alive]:
            self._drop(key)

    def source(self, entry: Entry) -> Source | None:
        """What answers requests of this version now; None: nothing whose answers are kept."""
        return self._sources.get((entry.name, entry.version))

    def _drop(self, key: tuple[Source, bytes]) -> None:
        outputs = self._kept.pop(key, None)
        if outputs is not None:
            self.bytes -= _size(outputs)


def source_of(entry: Entry, catalog: Catalog) -> Source:
    """An ensemble's answers are those of its models, so that one that is replaced makes other answers of it."""
    own: Source = (entry.name, entry.version, entry.contract, entry.artifact, repr(entry.ensemble), repr(entry.steps))
    steps = entry.ensemble.steps if entry.ensemble is not None else ()
    members = [catalog.entry(step.model, step.version) for step in steps if catalog.has(step.model, step.version)]
    return sum((source_of(member, catalog) for member in members), own)


async def digest_inputs(inputs: Sequence[Tensor]) -> bytes:
    """A digest of the names, datatypes, shapes and bytes; inputs may come in any order."""
    ordered = sorted(inputs, key=lambda tensor: tensor.name)
    head = repr([(each.name, each.datatype, each.shape, len(each.data)) for each in ordered]).encode()
    blobs = [head, *(each.data for each in ordered)]
    if sum(map(len, blobs)) <= IN_LOOP_BYTES:
        return _digest(blobs)
    return await asyncio.to_thread(_digest, blobs)


def _digest(blobs: Sequence[Buffer]) -> bytes:
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for blob in blobs:
        state.update(blob)
    return state.digest()


def _size(outputs: Sequence[Tensor]) -> int:
    inside = sum(TENSOR_BYTES + DIMENSION_BYTES * len(each.shape) + len(each.data) for each in outputs)
    return ENTRY_BYTES + inside
