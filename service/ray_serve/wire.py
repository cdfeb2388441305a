"""A request and its answers as they go from one actor of Ray to another: msgpack, and the tensors' bytes behind it.

Arrays of bytes, for Ray keeps large ones in shared memory and hands them over unread. Deadlines travel as seconds that
are left, for machines have no common clock. Pure; `handles.py` and `replica.py` are the two ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import structs

from service.engine.messages import Failure, Infer, Result
from service.repository.catalog import Entry
from service.tensors import Buffer

Blob = npt.NDArray[np.uint8]
Parcel = tuple[bytes, list[Blob]]
ANSWERS: msgspec.msgpack.Decoder[Result | Failure] = msgspec.msgpack.Decoder(Result | Failure)
REQUESTS = msgspec.msgpack.Decoder(Infer)
ENTRIES = msgspec.msgpack.Decoder(tuple[Entry, ...])


def pack_request(message: Infer, blobs: Sequence[Buffer], now: float) -> Parcel:
    """Request `message` as it leaves at `now`."""
    if message.deadline is not None:
        message = structs.replace(message, deadline=message.deadline - now)
    return msgspec.msgpack.encode(message), [_array(blob) for blob in blobs]


def unpack_request(head: bytes, blobs: Sequence[Any], now: float) -> tuple[Infer, memoryview]:
    """The message with a deadline by this clock, and its tensors one behind the other."""
    message = REQUESTS.decode(head)
    if message.deadline is not None:
        message = structs.replace(message, deadline=message.deadline + now)
    if len(blobs) == 1:
        return message, memoryview(blobs[0])
    return message, memoryview(b"".join(blobs))


def pack_answer(message: Result | Failure, blobs: Sequence[memoryview]) -> Parcel:
    return msgspec.msgpack.encode(message), [_array(blob) for blob in blobs]


def unpack_answer(head: bytes, blobs: Sequence[Blob]) -> tuple[Result | Failure, list[memoryview]]:
    return ANSWERS.decode(head), [blob.data for blob in blobs]


def pack_entries(entries: Sequence[Entry]) -> bytes:
    return msgspec.msgpack.encode(entries)


def unpack_entries(packed: bytes) -> tuple[Entry, ...]:
    return ENTRIES.decode(packed)


def _array(blob: Buffer) -> Blob:
    return np.frombuffer(blob, dtype=np.uint8)
