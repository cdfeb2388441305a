"""Tensors of a request that lie in CUDA shared memory: found among its placements, and taken out of what is sent.

Pure. Their bytes never come to a frontend: the engine of the GPU reads and writes them (`engine/regions.py`).
`plane.py` asks before a request is checked, when it is sent, when it is answered. For /dev/shm see `shared_memory.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from msgspec.structs import replace

from compiler.spec import TensorSpec
from service.engine.messages import Infer
from service.errors import InvalidInput
from service.repository.catalog import Entry
from service.shared_memory import CudaRegion
from service.tensors import Buffer, InferRequest, InferResponse, OnGpu, Place, Placement, Places, byte_size


class Absent:
    """Stands for bytes that are elsewhere: it has their number only."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<Absent {self._size} bytes>"


def take_places(request: InferRequest, regions: Sequence[CudaRegion]) -> InferRequest:
    """The request with `on_gpu` for what lies in `regions`, whose tensors it no longer counts as shared.

    Raises InvalidInput where one lies beyond its region, or where they are on several GPUs.
    """
    known = {region.name: region for region in regions}
    inputs = {name: place for name, place in request.shared_inputs.items() if place.region in known}
    outputs = {name: place for name, place in request.shared_outputs.items() if place.region in known}
    if not inputs and not outputs:
        return request
    _check_kinds(request, inputs, outputs)
    used = [*_check("input", inputs, known), *_check("output", outputs, known)]
    devices = sorted({region.device for region in used})
    if len(devices) > 1:
        raise InvalidInput(
            f"this request's tensors lie on {' and '.join(devices)}: place those of one request on one GPU"
        )
    tensors = tuple(
        replace(tensor, data=cast(Buffer, Absent(inputs[tensor.name].byte_size))) if tensor.name in inputs else tensor
        for tensor in request.inputs
    )
    return replace(
        request,
        inputs=tensors,
        shared_inputs={name: place for name, place in request.shared_inputs.items() if name not in inputs},
        shared_outputs={name: place for name, place in request.shared_outputs.items() if name not in outputs},
        on_gpu=OnGpu(devices[0], inputs, outputs, {region.name: region.id for region in used}),
    )


def _check(kind: str, places: Mapping[str, Placement], known: Mapping[str, CudaRegion]) -> list[CudaRegion]:
    for name, place in places.items():
        size = known[place.region].byte_size
        if place.offset + place.byte_size > size:
            raise InvalidInput(
                f"{kind} '{name}': shared memory region '{place.region}' has {size} bytes: "
                f"{place.byte_size} bytes from offset {place.offset} end beyond it"
            )
    return [known[place.region] for place in places.values()]


def _check_kinds(request: InferRequest, inputs: Mapping[str, Placement], outputs: Mapping[str, Placement]) -> None:
    for tensor in request.inputs:
        if tensor.name in inputs and tensor.datatype == "BYTES":
            raise InvalidInput(f"input '{tensor.name}': BYTES do not go into CUDA shared memory: send them as they are")
    for output in request.outputs:
        if output.name in outputs and output.classification:
            raise InvalidInput(
                f"output '{output.name}': classes do not go into CUDA shared memory: ask for them in the response"
            )


def place(message: Infer, blobs: Sequence[Buffer], on_gpu: OnGpu, entry: Entry) -> tuple[Infer, list[Buffer]]:
    """The message and the bytes to send: it says what is on the GPU, which is left out. Raises InvalidInput."""
    for spec in entry.outputs:
        if spec.name in on_gpu.outputs and spec.datatype == "BYTES":
            raise InvalidInput(f"output '{spec.name}': BYTES do not go into CUDA shared memory: leave them out of it")
    ids = on_gpu.regions
    places = Places(
        on_gpu.device, _places(entry.inputs, on_gpu.inputs, ids), _places(entry.outputs, on_gpu.outputs, ids)
    )
    absent = {item.index for item in places.inputs}
    kept = [b"" if index in absent else blob for index, blob in enumerate(blobs)]
    return replace(message, sizes=tuple(map(len, kept)), places=places), kept


def _places(specs: Sequence[TensorSpec], placed: Mapping[str, Placement], ids: Mapping[str, int]) -> tuple[Place, ...]:
    return tuple(
        Place(index, ids[found.region], found.offset, found.byte_size)
        for index, spec in enumerate(specs)
        if (found := placed.get(spec.name)) is not None
    )


def tell_places(response: InferResponse, on_gpu: OnGpu) -> InferResponse:
    """The response saying of each output that the engine wrote to memory where it is, and its size."""
    shared = {
        tensor.name: replace(on_gpu.outputs[tensor.name], byte_size=byte_size(tensor.datatype, tensor.shape))
        for tensor in response.outputs
        if tensor.name in on_gpu.outputs
    }
    return replace(response, shared={**response.shared, **shared}) if shared else response
