"""The tensor value that every door speaks, the datatypes of the Open Inference Protocol v2, and the packing of BYTES.

Knows nothing of torch, HTTP or gRPC. The codecs of `rest` and `rpc` make these values, `plane.py` checks them.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np

from compiler.spec import ITEM_SIZES, TensorSpec
from service.errors import InvalidInput
from service.traced import Ran

Buffer = bytes | bytearray | memoryview

MAX_ELEMENTS = 1 << 40  # keeps byte sizes far from 64-bit overflow; real limits are on body sizes
MAX_RANK = 32  # numpy itself stops at 64

# BF16 has no numpy type: it is carried as the high two bytes of a float32 (see bf16_to_float32).
NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


class Tensor(msgspec.Struct, frozen=True):
    """A named tensor as little-endian, row-major bytes; for BYTES each element is a uint32 length and its bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


class Placement(msgspec.Struct, frozen=True):
    """Where a tensor lies that is not in the message: in a registered region of shared memory."""

    region: str
    byte_size: int
    offset: int = 0


class OnGpu(msgspec.Struct, frozen=True):
    """The inputs and outputs of a request, by name, that lie in CUDA shared memory, all of one GPU.

    `regions` are the numbers under which the regions of those names are registered.
    """

    device: str
    inputs: dict[str, Placement] = {}
    outputs: dict[str, Placement] = {}
    regions: dict[str, int] = {}


class Place(msgspec.Struct, frozen=True, array_like=True):
    """As an engine is told: the input or output of this index lies in the region that was registered as `region`."""

    index: int
    region: int
    offset: int
    byte_size: int


class Places(msgspec.Struct, frozen=True, array_like=True):
    """The tensors of a request that lie in the memory of this GPU: none of their bytes are sent."""

    device: str
    inputs: tuple[Place, ...] = ()
    outputs: tuple[Place, ...] = ()


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output the client wants; `classification` k > 0 asks for the k largest values with index and label."""

    name: str
    classification: int = 0


class SequencePoint(msgspec.Struct, frozen=True, array_like=True):
    """Where in a sequence a request belongs. `id` is a number above 0 or a text that is not empty."""

    id: int | str
    is_start: bool = False
    is_end: bool = False


class InferRequest(msgspec.Struct, frozen=True):
    """One inference request, as any door hands it to the plane.

    `version` "" means the default one. `outputs` empty means all. `deadline` is CLOCK_MONOTONIC in seconds (None:
    none but the model's own); `timeout_us` and `priority` come from the request's parameters, 0 when absent.
    `shared_inputs` (whose tensors come without data) and `shared_outputs` lie in shared memory, by name; `on_gpu` are
    those found to be in a GPU's. `sequence` is None for a request that belongs to none.
    """

    model: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    id: str = ""
    timeout_us: int = 0
    priority: int = 0
    deadline: float | None = None
    protocol: str = "http"
    arrived: float = 0.0
    shared_inputs: dict[str, Placement] = {}
    shared_outputs: dict[str, Placement] = {}
    sequence: SequencePoint | None = None
    on_gpu: OnGpu | None = None
    trace: str = ""  # the header traceparent of the client, or that of our own span where the request is traced
    mark: bytes = b""  # of our own span, for the engine


class InferResponse(msgspec.Struct, frozen=True):
    """The answer: outputs in the order asked for, or the model's own.

    `phases_ns` are the nanoseconds of queue, stack, copy in, compute and copy out; `batch` rows of requests were run
    together, padded to `bucket`. The outputs that `shared` names were written to shared memory, and come without data.
    """

    model: str
    version: str
    id: str
    outputs: tuple[Tensor, ...]
    phases_ns: tuple[int, ...] = ()
    shared: dict[str, Placement] = {}
    batch: int = 0
    bucket: int = 0
    is_final: bool = True  # False: more come; the last of several has no outputs
    ran: Ran | None = None  # of a request with a mark


def elements(shape: tuple[int, ...]) -> int:
    """The number of elements of `shape`; 1 for a scalar."""
    return math.prod(shape)


def byte_size(datatype: str, shape: tuple[int, ...]) -> int:
    """The bytes that a tensor of this datatype and shape takes. Not for BYTES, whose size depends on its values."""
    return ITEM_SIZES[datatype] * elements(shape)


def describe(spec: TensorSpec, max_batch_size: int = 0) -> str:
    """`FP32 [-1,3,224,224] (batch up to 32)`: the words an error uses for what was expected."""
    batch = f" (batch up to {max_batch_size})" if max_batch_size else ""
    return f"{spec.datatype} {shape_text(spec.shape)}{batch}"


def shape_text(shape: tuple[int, ...]) -> str:
    """`[2,3,224,224]`."""
    return f"[{','.join(map(str, shape))}]"


def pack_bytes(values: list[bytes]) -> bytes:
    """BYTES elements in the wire form: uint32 little-endian length, then the bytes, one after the other."""
    return b"".join(part for value in values for part in (struct.pack("<I", len(value)), value))


def unpack_bytes(data: Buffer, count: int) -> list[bytes]:
    """The `count` elements packed in `data`. Raises InvalidInput where the lengths do not fit the data."""
    view, at = memoryview(data), 0
    values: list[bytes] = []
    while at < len(view):
        if at + 4 > len(view):
            raise InvalidInput(f"BYTES data ends inside the length of element {len(values)}")
        (length,) = struct.unpack_from("<I", view, at)
        at += 4
        if at + length > len(view):
            raise InvalidInput(
                f"BYTES element {len(values)} announces {length} bytes but only {len(view) - at} are left"
            )
        values.append(bytes(view[at : at + length]))
        at += length
    if len(values) != count:
        raise InvalidInput(f"BYTES data holds {len(values)} elements, the shape asks for {count}")
    return values


def to_numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    """The tensor as an array (a view, read-only where the bytes are). BF16 comes as float32, BYTES as objects."""
    if tensor.datatype == "BYTES":
        values = unpack_bytes(tensor.data, elements(tensor.shape))
        return np.array([*values, None], dtype=object)[:-1].reshape(tensor.shape)
    if tensor.datatype == "BF16":
        return bf16_to_float32(tensor.data).reshape(tensor.shape)
    return np.frombuffer(tensor.data, dtype=NUMPY_TYPES[tensor.datatype]).reshape(tensor.shape)


def bf16_to_float32(data: Buffer) -> np.ndarray[Any, np.dtype[np.float32]]:
    """BF16 bits are the high half of the float32 with the same value."""
    return (np.frombuffer(data, dtype="<u2").astype("<u4") << 16).view("<f4")


def float32_to_bf16(values: np.ndarray[Any, Any]) -> bytes:
    """Round to nearest, ties to even, as torch does; NaN stays NaN."""
    single = np.ascontiguousarray(values, dtype="<f4")
    bits = single.view("<u4")
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return np.where(np.isnan(single), np.uint16(0x7FC0), rounded).astype("<u2").tobytes()
