"""Tensors as bodies of their own: little-endian bytes, and NumPy's .npy files. For models with one input or one output.

Pure. Of .npy only plain numbers are taken: its header is read as a literal, never evaluated, and nothing is unpickled.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np

from compiler.spec import TensorSpec
from service.errors import InvalidInput, Unsupported
from service.repository.catalog import Entry
from service.tensors import (
    MAX_RANK,
    NUMPY_TYPES,
    Buffer,
    InferResponse,
    Tensor,
    byte_size,
    float32_to_bf16,
    shape_text,
    to_numpy,
)

RAW = b"application/octet-stream"
NPY = (b"application/x-npy", b"application/npy", b"application/x-numpy")
SHAPE = b"tensor-shape"  # a header, where the body's size does not tell: "2,3,224,224"
DATATYPE = b"tensor-datatype"
SIZES = re.compile(rb"[0-9]{1,18}(,[0-9]{1,18}){0,31}")
MAX_NPY_HEADER = 10_000  # characters; NumPy's own bound, since a longer literal may exhaust its parser
DATATYPES = {dtype: name for name, dtype in NUMPY_TYPES.items()}


def read_raw(entry: Entry, body: Buffer, shape: bytes | None) -> Tensor:
    """The only input from its bytes; the batch, or the one other size that varies, follows from their number."""
    spec = only_input(entry)
    if shape is not None:
        return Tensor(spec.name, spec.datatype, _read_shape(shape), body)
    if spec.shape.count(-1) > 1:
        raise InvalidInput(
            f"input '{spec.name}' is {shape_text(spec.shape)}: its sizes do not follow from {len(body)} bytes: "
            f"send them in a header as Tensor-Shape: {','.join(str(size) if size > 0 else '1' for size in spec.shape)}"
        )
    return Tensor(spec.name, spec.datatype, _fit(spec.datatype, spec.shape, len(body)), body)


def read_one_row(entry: Entry, body: Buffer) -> Tensor:
    """The only input from its bytes as a batch of one, as the binary extension of the v2 protocol has it."""
    spec = only_input(entry)
    shape = (1, *spec.shape[1:]) if entry.max_batch_size else spec.shape
    if shape.count(-1) == 1:
        shape = _fit(spec.datatype, shape, len(body))
    return Tensor(spec.name, spec.datatype, shape, body)


def only_input(entry: Entry) -> TensorSpec:
    """The input that a body without names is for. Raises InvalidInput where there are several."""
    if len(entry.inputs) != 1:
        raise InvalidInput(
            f"a body without names needs a model with one input, '{entry.name}' has {len(entry.inputs)}: send JSON"
        )
    return entry.inputs[0]


def _fit(datatype: str, shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """`shape` with its -1 as large as `size` bytes fill it."""
    if datatype == "BYTES":
        raise InvalidInput("text has no fixed size: send its shape in a header as Tensor-Shape: 1")
    item = byte_size(datatype, tuple(each for each in shape if each != -1))
    return tuple(size // max(item, 1) if each == -1 else each for each in shape)


def _read_shape(text: bytes) -> tuple[int, ...]:
    sizes = text.replace(b" ", b"").strip(b"[]")
    if not SIZES.fullmatch(sizes):
        raise InvalidInput(
            f"Tensor-Shape must be sizes with commas, as 1,3,224,224, got '{text[:60].decode('latin-1')}'"
        )
    return tuple(map(int, sizes.split(b",")))


def read_npy(entry: Entry, body: Buffer) -> Tensor:
    """The only input from a .npy file. Raises InvalidInput for everything but plain numbers."""
    spec = only_input(entry)
    stream = io.BytesIO(body)
    try:
        shape, is_fortran, dtype = _read_npy_header(stream)
    except Exception as error:
        raise InvalidInput(f"the body is not a .npy file that can be read: {_first_line(error)}") from error
    little = dtype.newbyteorder("<")
    if little not in DATATYPES:
        raise InvalidInput(f"the .npy file holds {_dtype_name(dtype)}: save plain numbers, as {spec.datatype}")
    if len(shape) > MAX_RANK or any(size < 0 for size in shape):
        raise InvalidInput(f"the .npy file has the shape {shape_text(shape)[:100]}: at most {MAX_RANK} sizes are taken")
    data = memoryview(body)[stream.tell() :]
    if len(data) != byte_size(DATATYPES[little], shape):
        raise InvalidInput(
            f"the .npy file has {len(data)} bytes of data, its shape {shape_text(shape)} takes "
            f"{byte_size(DATATYPES[little], shape)}"
        )
    if is_fortran or dtype != little:
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")
        data = memoryview(np.ascontiguousarray(array, little).tobytes())
    if spec.datatype == "BF16" and little == NUMPY_TYPES["FP32"]:  # NumPy has no BF16
        return Tensor(spec.name, "BF16", shape, float32_to_bf16(np.frombuffer(data, little)))
    return Tensor(spec.name, DATATYPES[little], shape, data)


def _read_npy_header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream, max_header_size=MAX_NPY_HEADER)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream, max_header_size=MAX_NPY_HEADER)
    raise ValueError(f"its format {version[0]}.{version[1]} is for structured arrays: save a plain one")


def write_one(response: InferResponse, content_type: bytes) -> tuple[list[tuple[bytes, bytes]], list[Buffer]]:
    """Headers and body of an answer with one output, as bytes or as .npy. Raises InvalidInput, Unsupported."""
    if len(response.outputs) != 1:
        names = ", ".join(tensor.name for tensor in response.outputs)
        raise InvalidInput(
            f"{content_type.decode()} holds one output, model '{response.model}' has {names}: "
            "ask for one with ?output=NAME, or accept application/json"
        )
    (tensor,) = response.outputs
    headers = [
        (b"content-type", content_type),
        (DATATYPE, tensor.datatype.encode()),
        (SHAPE, ",".join(map(str, tensor.shape)).encode()),
    ]
    return headers, [tensor.data] if content_type == RAW else _npy(tensor)


def _npy(tensor: Tensor) -> list[Buffer]:
    """BF16 as float32, which holds it exactly."""
    if tensor.datatype == "BYTES":
        raise Unsupported(f"output '{tensor.name}' is text, which .npy holds only pickled: accept application/json")
    array, stream = to_numpy(tensor), io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
    return [stream.getvalue(), array.tobytes()]


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "Python objects, which are never unpickled here" if dtype.hasobject else str(dtype)[:60]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
