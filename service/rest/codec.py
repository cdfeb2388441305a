"""The v2 protocol's JSON and binary tensor data to and from the service's own values.

Pure: bytes in, values out, and back. Knows nothing of HTTP's machinery or of engines; `infer.py` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compiler.spec import ITEM_SIZES
from service.errors import InvalidInput
from service.limits import Limits
from service.rest.arrays import array_to_bytes, json_to_tensor
from service.rest.json_text import DEFAULT_LIMITS, dump_json, kind, parse_json, short
from service.sequence_point import read_sequence
from service.shared_memory import read_placement
from service.tensors import (
    MAX_RANK,
    Buffer,
    InferRequest,
    InferResponse,
    Placement,
    RequestedOutput,
    SequencePoint,
    Tensor,
    to_numpy,
)

RESERVED_PREFIX = "triton_"  # reserved by the protocol's extensions; a client's own parameter must not use it
RESERVED = ("headers",)  # where servers that pass HTTP headers on put them
NOTHING = memoryview(b"")
MAX_NAME = 256  # a refusal repeats the name


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A v2 request. `binary` says which outputs go back as bytes; `binary_default` decides for the others."""

    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...]
    binary: dict[str, bool]
    binary_default: bool
    timeout_us: int
    priority: int
    shared_inputs: dict[str, Placement] = field(default_factory=dict)
    shared_outputs: dict[str, Placement] = field(default_factory=dict)
    sequence: SequencePoint | None = None

    def bare(self) -> ParsedRequest:
        """The same without the bytes of its tensors."""
        return replace(self, inputs=tuple(Tensor(each.name, each.datatype, each.shape, b"") for each in self.inputs))

    def asked_of(self, bare: InferRequest) -> InferRequest:
        """This request, of the model that `bare` names."""
        return InferRequest(
            bare.model,
            bare.version,
            self.inputs,
            self.outputs,
            self.id,
            self.timeout_us,
            self.priority,
            arrived=bare.arrived,
            shared_inputs=self.shared_inputs,
            shared_outputs=self.shared_outputs,
            sequence=self.sequence,
            trace=bare.trace,
        )


def parse_infer(body: Buffer, json_size: int | None, limits: Limits = DEFAULT_LIMITS) -> ParsedRequest:
    """A v2 inference request; `json_size` is the Inference-Header-Content-Length, None where there is none."""
    if json_size is not None and not 0 < json_size <= len(body):
        raise InvalidInput(
            f"Inference-Header-Content-Length is {json_size}, the body has {len(body)} bytes: "
            "it must be between 1 and that"
        )
    if json_size is None:
        return parse_request(parse_json(body, limits), NOTHING, limits)
    view = memoryview(body)
    return parse_request(parse_json(view[:json_size], limits), view[json_size:], limits)


def parse_request(request: dict[str, Any], blobs: memoryview, limits: Limits = DEFAULT_LIMITS) -> ParsedRequest:
    """A v2 request whose JSON is `request`; its binary tensors lie one after the other in `blobs`."""
    parameters = _object(request.get("parameters"), "parameters")
    timeout_us, priority = _scheduling(parameters)
    inputs, used = [], 0
    shared: dict[str, Placement] = {}
    for item in _tensors(request.get("inputs"), "inputs", limits):
        tensor, size = _parse_input(_object(item, "an input"), blobs[used:], shared)
        inputs.append(tensor)
        used += size
    if used != len(blobs):
        raise InvalidInput(
            f"the body has {len(blobs)} bytes of binary data, its inputs' binary_data_size add up to {used}"
        )
    outputs, binary, shared_outputs = _parse_outputs(_tensors(request.get("outputs", []), "outputs", limits))
    identity = request.get("id", "")
    if not isinstance(identity, str):
        raise InvalidInput(f"id must be a string, got {kind(identity)}")
    default = _boolean(parameters.get("binary_data_output", False), "binary_data_output")
    return ParsedRequest(
        identity,
        tuple(inputs),
        outputs,
        binary,
        default,
        timeout_us,
        priority,
        shared,
        shared_outputs,
        read_sequence(parameters) if parameters else None,
    )


def _parse_input(item: dict[str, Any], blobs: memoryview, shared: dict[str, Placement]) -> tuple[Tensor, int]:
    """The tensor and the bytes of binary data it took; where it lies in shared memory, that is noted in `shared`."""
    name, datatype = _name(item, "input"), item.get("datatype")
    if not isinstance(datatype, str) or (datatype not in ITEM_SIZES and datatype != "BYTES"):
        raise InvalidInput(
            f"input '{name}': datatype {short(datatype)} is unknown: use one of {', '.join(ITEM_SIZES)}, BYTES"
        )
    shape = _shape(item.get("shape"), name)
    parameters = _object(item.get("parameters"), f"input '{name}': parameters")
    size = parameters.get("binary_data_size")
    if "shared_memory_region" in parameters:
        if "data" in item or size is not None:
            raise InvalidInput(f"input '{name}' has data and a shared_memory_region: send one of them")
        shared[name] = read_placement(f"input '{name}'", parameters)
        return Tensor(name, datatype, shape, b""), 0
    if size is None:
        if "data" not in item:
            raise InvalidInput(f"input '{name}' has neither data nor a binary_data_size")
        return json_to_tensor(name, datatype, shape, item["data"]), 0
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise InvalidInput(f"input '{name}': binary_data_size must be a number of bytes, got {short(size)}")
    if "data" in item:
        raise InvalidInput(f"input '{name}' has both data and binary_data_size: send one of them")
    if size > len(blobs):
        raise InvalidInput(
            f"input '{name}': binary_data_size is {size}, but only {len(blobs)} bytes are left in the body"
        )
    return Tensor(name, datatype, shape, blobs[:size]), size


def _shape(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise InvalidInput(f"input '{name}': shape must be a list of sizes, zero or more, got {short(value)}")
    if len(value) > MAX_RANK:
        raise InvalidInput(f"input '{name}': shape has {len(value)} dimensions, at most {MAX_RANK} are allowed")
    return tuple(value)


def _parse_outputs(
    items: list[Any],
) -> tuple[tuple[RequestedOutput, ...], dict[str, bool], dict[str, Placement]]:
    """What is asked for, which of it as binary data, and which of it into shared memory."""
    outputs, binary, shared = [], {}, {}
    for item in items:
        item = _object(item, "an output")
        name = _name(item, "output")
        parameters = _object(item.get("parameters"), f"output '{name}': parameters")
        if "shared_memory_region" in parameters:
            shared[name] = read_placement(f"output '{name}'", parameters)
        count = parameters.get("classification", 0)
        if type(count) is not int or count < 0:
            raise InvalidInput(f"output '{name}': classification must be a number of classes, got {short(count)}")
        if "binary_data" in parameters:
            binary[name] = _boolean(parameters["binary_data"], "binary_data")
        outputs.append(RequestedOutput(name, count))
    return tuple(outputs), binary, shared


def _scheduling(parameters: dict[str, Any]) -> tuple[int, int]:
    """`timeout` (microseconds) and `priority` of a request; what cannot be honoured is refused."""
    for key in parameters:
        if key.startswith(RESERVED_PREFIX) or key in RESERVED:
            raise InvalidInput(
                f"parameter '{key[:40]}' is reserved: 'headers' and names that begin with '{RESERVED_PREFIX}' are not "
                "a client's"
            )
    values = []
    for key in ("timeout", "priority"):
        value = parameters.get(key, 0)
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise InvalidInput(f"parameter '{key}' must be a whole number, zero or more, got {short(value)}")
        values.append(value)
    return values[0], values[1]


def encode_infer(
    response: InferResponse, binary: dict[str, bool], binary_default: bool
) -> tuple[bytes, Sequence[Buffer]]:
    """The JSON part and the binary tensors of a v2 answer, in the order of its outputs."""
    outputs, blobs, has_nan = [], [], False
    for tensor in response.outputs:
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.name in response.shared:
            pass  # nothing to say of it: the C++ client refuses parameters that it does not know
        elif binary.get(tensor.name, binary_default):
            # The C++ client refuses any other key here.
            output["parameters"] = {"binary_data_size": len(tensor.data)}
            blobs.append(tensor.data)
        else:
            output["data"], is_finite = json_data(tensor)
            has_nan |= not is_finite
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": response.model, "model_version": response.version, "outputs": outputs}
    if response.id:
        answer["id"] = response.id
    return dump_json(answer, has_nan), blobs


def json_data(tensor: Tensor) -> tuple[Any, bool]:
    """The flat values of a tensor for JSON, and whether they are all finite."""
    if tensor.datatype == "BYTES":
        return array_to_bytes(tensor), True
    values = to_numpy(tensor).reshape(-1)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    return values, values.dtype.kind != "f" or bool(np.isfinite(values).all())


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None and what.endswith("parameters"):
        return {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object, got {kind(value)}")
    return value


def _tensors(value: Any, what: str, limits: Limits) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{what} must be a list, got {kind(value)}")
    if len(value) > limits.tensors:
        raise InvalidInput(f"{what} has {len(value)} entries, this server takes {limits.tensors} (setting max_tensors)")
    return value


def _name(item: dict[str, Any], what: str) -> str:
    name = item.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"every {what} needs a name, got {short(name)}")
    if len(name) > MAX_NAME:
        raise InvalidInput(f"the name of an {what} has {len(name)} characters, at most {MAX_NAME} are taken")
    return name


def _boolean(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{what} must be true or false, got {short(value)}")
    return value
