"""A request and its answers as they go from one actor of Ray to another: msgpack, and the tensors' bytes behind it.

Arrays of bytes, for Ray keeps large ones in shared memory and hands them over unread. Moments travel as seconds from
now, for machines have no common clock: what a trace tells of a replica is late by the time on the way. Pure;
`handles.py` and `replica.py` are the two ends.
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
from service.traced import shifted

Blob = npt.NDArray[np.uint8]
Parcel = tuple[bytes, list[Blob]]
ANSWERS: msgspec.msgpack.Decoder[Result | Failure] = msgspec.msgpack.Decoder(Result | Failure)
REQUESTS = msgspec.msgpack.Decoder(Infer)
ENTRIES = msgspec.msgpack.Decoder(tuple[Entry, ...])


def pack_request(message: Infer, blobs: Sequence[Buffer], now: float) -> Parcel:
    """Request `message` as it leaves at `now`."""
    return msgspec.msgpack.encode(_shifted(message, -now)), [_array(blob) for blob in blobs]


def unpack_request(head: bytes, blobs: Sequence[Any], now: float) -> tuple[Infer, memoryview]:
    """The message with its moments by this clock, and its tensors one behind the other."""
    message = _shifted(REQUESTS.decode(head), now)
    if len(blobs) == 1:
        return message, memoryview(blobs[0])
    return message, memoryview(b"".join(blobs))


def pack_answer(message: Result | Failure, blobs: Sequence[memoryview], now: float) -> Parcel:
    """An answer as it leaves at `now`."""
    return msgspec.msgpack.encode(_told(message, -now)), [_array(blob) for blob in blobs]


def unpack_answer(head: bytes, blobs: Sequence[Blob], now: float) -> tuple[Result | Failure, list[memoryview]]:
    """The answer with what it tells of its way by this clock."""
    return _told(ANSWERS.decode(head), now), [blob.data for blob in blobs]


def pack_entries(entries: Sequence[Entry]) -> bytes:
    return msgspec.msgpack.encode(entries)


def unpack_entries(packed: bytes) -> tuple[Entry, ...]:
    return ENTRIES.decode(packed)


def _shifted(message: Infer, by_s: float) -> Infer:
    if message.deadline is None and message.late is None:
        return message
    deadline, late = (moment + by_s if moment is not None else None for moment in (message.deadline, message.late))
    return structs.replace(message, deadline=deadline, late=late)


def _told(message: Result | Failure, by_s: float) -> Result | Failure:
    if isinstance(message, Failure) or message.ran is None:
        return message
    return structs.replace(message, ran=shifted(message.ran, int(by_s * 1e9)))


def _array(blob: Buffer) -> Blob:
    return np.frombuffer(blob, dtype=np.uint8)
