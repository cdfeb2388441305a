"""A small gRPC client: numpy arrays in, numpy arrays out, errors as the service's own.

    with RpcClient("localhost:8001") as client:
        client.infer("digits", {"image": images})["logits"]

Knows nothing of the server's inside; any server of the Open Inference Protocol v2 will do. `rest.py` is its sibling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from protos.inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelStatisticsRequest,
    ServerReadyRequest,
)
from protos.inference_pb2_grpc import GRPCInferenceServiceStub
from service.errors import Code, InvalidInput, ServiceError, from_code
from service.tensors import NUMPY_TYPES, Tensor, pack_bytes, to_numpy

Array = np.ndarray[Any, Any]

CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: Code.INVALID,
    grpc.StatusCode.NOT_FOUND: Code.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE: Code.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Code.DEADLINE,
    grpc.StatusCode.CANCELLED: Code.CANCELLED,
    grpc.StatusCode.UNIMPLEMENTED: Code.UNSUPPORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Code.TOO_LARGE,
    grpc.StatusCode.ALREADY_EXISTS: Code.EXISTS,
    grpc.StatusCode.UNAUTHENTICATED: Code.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: Code.FORBIDDEN,
}  # any other status: Code.FAILED
DATATYPES = {dtype: datatype for datatype, dtype in NUMPY_TYPES.items()}
READY_TIMEOUT_S = 5.0  # a server that takes longer to say so is not ready
QUESTION_TIMEOUT_S = 10.0  # answered from memory
NO_LIMIT = -1
SECURE = "grpcs://"


class RpcClient:
    """One connection to `url` ("host:port"), opened at the first call; safe to share between threads.

    "grpcs://host:port" is TLS; `authority` is the file by which the server's certificate is judged, in PEM;
    `certificate` and `key` are the client's own, for mutual TLS. `token` is for a server that asks for one.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        authority: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        options = [("grpc.max_send_message_length", NO_LIMIT), ("grpc.max_receive_message_length", NO_LIMIT)]
        address = url.removeprefix("grpc://")
        if address.startswith(SECURE):
            files = (
                path.read_bytes() if path is not None else None for path in (authority, key or certificate, certificate)
            )
            known = grpc.ssl_channel_credentials(*files)
            self._channel = grpc.secure_channel(address.removeprefix(SECURE), known, options=options)
        else:
            self._channel = grpc.insecure_channel(address, options=options)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._stub = GRPCInferenceServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls that still run are cancelled."""
        self._channel.close()

    def is_ready(self) -> bool:
        """True when the server takes inference requests; False where it says no, or nobody answers."""
        try:
            return bool(self._stub.ServerReady(ServerReadyRequest(), timeout=READY_TIMEOUT_S).ready)
        except grpc.RpcError as error:
            translated = _service_error(error)
            if translated.code in (Code.UNAVAILABLE, Code.DEADLINE):
                return False
            raise translated from error

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """What `model` takes and gives, as the HTTP API writes it. Raises the errors of service.errors."""
        request = ModelMetadataRequest(name=model, version=version)
        return self._ask(self._stub.ModelMetadata, request)

    def statistics(self, model: str, version: str = "") -> dict[str, Any]:
        """How often and how long `model` has run, as the HTTP API writes it; its counts are text."""
        return self._ask(self._stub.ModelStatistics, ModelStatisticsRequest(name=model, version=version))

    def _ask(self, call: Callable[..., Any], request: Message) -> dict[str, Any]:
        try:
            answer = call(request, timeout=QUESTION_TIMEOUT_S, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _service_error(error) from error
        return dict(MessageToDict(answer, preserving_proto_field_name=True))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: str = "",
        *,
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """The outputs of `model` by name, all of them where `outputs` is empty; "" is the default version.

        Arrays of text or bytes travel as BYTES and come back as arrays of bytes. BF16 comes back as float32; an array
        of the dtype `bfloat16` of ml_dtypes travels as BF16.
        Raises the errors of service.errors: InvalidInput, NotFound, Unavailable, DeadlineExceeded, ExecutionFailed, ...
        """
        request = infer_message(model, [tensor_of(name, np.asarray(array)) for name, array in inputs.items()], version)
        for name in outputs:
            request.outputs.add(name=name)
        try:
            return arrays_of(self._stub.ModelInfer(request, timeout=timeout_s, metadata=self._metadata))
        except grpc.RpcError as error:
            raise _service_error(error) from error


def infer_message(model: str, tensors: Sequence[Tensor], version: str = "") -> ModelInferRequest:
    """The request that carries `tensors`, their bytes in raw_input_contents."""
    request = ModelInferRequest(model_name=model, model_version=version)
    for tensor in tensors:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(bytes(tensor.data))
    return request


def tensor_of(name: str, array: Array) -> Tensor:
    """The wire form of `array`. Raises InvalidInput where the protocol has no datatype for it."""
    if array.dtype.kind in "OSU":
        return Tensor(name, "BYTES", array.shape, pack_bytes([_bytes_of(name, value) for value in array.reshape(-1)]))
    if array.dtype.name == "bfloat16":
        return Tensor(name, "BF16", array.shape, array.view("<u2").tobytes())
    little = array.dtype.newbyteorder("<")
    datatype = DATATYPES.get(little)
    if datatype is None:
        raise InvalidInput(
            f"input '{name}': no datatype for arrays of {array.dtype}: cast it to a type of {[*NUMPY_TYPES]}"
        )
    return Tensor(name, datatype, array.shape, array.astype(little, copy=False).tobytes())


def arrays_of(response: ModelInferResponse) -> dict[str, Array]:
    """The outputs by name, from raw_output_contents; read-only views of the received bytes."""
    return {
        output.name: to_numpy(Tensor(output.name, output.datatype, tuple(output.shape), data))
        for output, data in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _bytes_of(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise InvalidInput(f"input '{name}': an array of objects may hold text and bytes only, got {type(value).__name__}")


def _service_error(error: grpc.RpcError) -> ServiceError:
    assert isinstance(error, grpc.Call), "gRPC raises the call itself"
    return from_code(CODES.get(error.code(), Code.FAILED), error.details() or error.code().name)
