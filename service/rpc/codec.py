"""gRPC inference messages to the plane's values and back.

Pure: knows no server, no model and no clock. The plane checks names, shapes and sizes; here only what the message
itself gets wrong is refused. `servicer.py` calls `decode` and `encode`, `parameters.py` reads the parameter maps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, MutableMapping, Sequence

import numpy as np

from protos.inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from service.errors import InvalidInput
from service.rpc.parameters import find_placement, read_output, read_point, read_request
from service.tensors import (
    NUMPY_TYPES,
    InferRequest,
    InferResponse,
    Placement,
    Tensor,
    elements,
    pack_bytes,
    shape_text,
)

InputTensor = ModelInferRequest.InferInputTensor
OutputTensor = ModelInferRequest.InferRequestedOutputTensor

# datatype -> the field of InferTensorContents that holds its values.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
RAW_ONLY = ("FP16", "BF16")  # the protocol has no typed field for these
NARROW = {"INT8": "<i4", "INT16": "<i4", "UINT8": "<u4", "UINT16": "<u4"}  # datatype -> the wider type it travels as


def decode(message: ModelInferRequest, *, deadline: float | None, arrived: float) -> InferRequest:
    """The request that `message` describes; `deadline` and `arrived` are CLOCK_MONOTONIC in seconds.

    Raises InvalidInput, or Unsupported for a feature this server does not have.
    """
    timeout_us, priority = read_request(message.parameters) if message.parameters else (0, 0)
    shared = _placements("input", message.inputs)
    raw = list(message.raw_input_contents)  # once: each access copies the bytes
    if raw:
        inputs = _raw_inputs(message.inputs, raw, shared)
    else:
        inputs = tuple([_typed_input(tensor, shared) for tensor in message.inputs])
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        inputs=inputs,
        outputs=tuple(read_output(output.name, output.parameters) for output in message.outputs),
        id=message.id,
        timeout_us=timeout_us,
        priority=priority,
        deadline=deadline,
        protocol="grpc",
        arrived=arrived,
        shared_inputs=shared,
        shared_outputs=_placements("output", message.outputs),
        sequence=read_point(message.parameters) if message.parameters else None,
    )


def encode(response: InferResponse) -> ModelInferResponse:
    """The answer, always with its bytes in raw_output_contents: clients read nothing else."""
    message = ModelInferResponse(
        model_name=response.model,
        model_version=response.version,
        id=response.id,
        raw_output_contents=[bytes(tensor.data) for tensor in response.outputs],
    )
    for tensor in response.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if tensor.name in response.shared:
            _describe_placement(output.parameters, response.shared[tensor.name])
    return message


def _placements(kind: str, tensors: Iterable[InputTensor | OutputTensor]) -> dict[str, Placement]:
    """Where those tensors lie that are in shared memory, by name."""
    found = {}
    for tensor in tensors:
        if tensor.parameters:
            placement = find_placement(f"{kind} '{tensor.name}'", tensor.parameters)
            if placement is not None:
                found[tensor.name] = placement
    return found


def _describe_placement(parameters: MutableMapping[str, InferParameter], placement: Placement) -> None:
    parameters["shared_memory_region"].string_param = placement.region
    parameters["shared_memory_byte_size"].int64_param = placement.byte_size
    if placement.offset:
        parameters["shared_memory_offset"].int64_param = placement.offset


def _raw_inputs(tensors: Sequence[InputTensor], raw: list[bytes], shared: Collection[str]) -> tuple[Tensor, ...]:
    """The tensors and their bytes; what lies in shared memory has no entry among the raw contents."""
    for tensor in tensors:
        if tensor.HasField("contents") and tensor.contents.ListFields():
            raise InvalidInput(
                f"input '{tensor.name}' has contents although the request has raw_input_contents: "
                "send all inputs in one of the two"
            )
    expected = sum(tensor.name not in shared for tensor in tensors) if shared else len(tensors)
    if len(raw) != expected:
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {expected} inputs: "
            "send one entry per input that is not in shared memory, in their order"
        )
    data = iter(raw)
    return tuple(
        [
            Tensor(tensor.name, tensor.datatype, tuple(tensor.shape), b"" if tensor.name in shared else next(data))
            for tensor in tensors
        ]
    )


def _typed_input(tensor: InputTensor, shared: Collection[str]) -> Tensor:
    """The tensor whose values are in its `contents`. Raises InvalidInput where they do not fit datatype or shape."""
    datatype, shape, where = tensor.datatype, tuple(tensor.shape), f"input '{tensor.name}'"
    if tensor.name in shared:
        if tensor.contents.ListFields():
            raise InvalidInput(f"{where} has contents and a shared_memory_region: send one of them")
        return Tensor(tensor.name, datatype, shape, b"")
    field = CONTENTS.get(datatype)
    if datatype in RAW_ONLY:
        raise InvalidInput(f"{where}: {datatype} has no typed contents: send its bytes in raw_input_contents")
    if field is None:
        known = ", ".join([*CONTENTS, *RAW_ONLY])
        raise InvalidInput(f"{where}: unknown datatype '{datatype}': choose one of {known}")
    filled = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if any(name != field for name in filled):
        raise InvalidInput(f"{where}: the values of {datatype} go into {field}, this request fills {', '.join(filled)}")
    values = getattr(tensor.contents, field)
    if len(values) != elements(shape):
        remedy = "send as many as the shape has" if filled else f"send data in raw_input_contents or contents.{field}"
        raise InvalidInput(
            f"{where}: {len(values)} values, shape {shape_text(shape)} takes {elements(shape)}: {remedy}"
        )
    if datatype == "BYTES":
        return Tensor(tensor.name, datatype, shape, pack_bytes(list(values)))
    array = np.fromiter(values, dtype=NARROW.get(datatype, NUMPY_TYPES[datatype]), count=len(values))
    if datatype in NARROW and array.size:
        _check_range(where, datatype, array)
    return Tensor(tensor.name, datatype, shape, array.astype(NUMPY_TYPES[datatype], copy=False).tobytes())


def _check_range(where: str, datatype: str, array: np.ndarray[tuple[int], np.dtype[np.integer]]) -> None:
    bounds = np.iinfo(NUMPY_TYPES[datatype])
    for worst in (int(array.min()), int(array.max())):
        if not bounds.min <= worst <= bounds.max:
            raise InvalidInput(f"{where}: {worst} does not fit {datatype} ({bounds.min} to {bounds.max})")
