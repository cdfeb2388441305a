"""Which gRPC calls are let in: an interceptor before every call of every service of the port.

Knows what each call does; `security.py` decides. `server.py` installs it where the settings ask for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from service.errors import Forbidden, ServiceError
from service.rpc.errors import Context, status_of
from service.security import Guard, Operation

HEALTH = Operation("health", None)
METADATA = Operation("metadata", "read")
INFERENCE = Operation("inference", "infer")
UNKNOWN = Operation("metadata", "control")
READ_MEMORY, CHANGE_MEMORY = Operation("shared-memory", "read"), Operation("shared-memory", "control")
CHANGE_MODELS = Operation("model-repository", "control")
TRITON_PREFIX = "triton-grpc-protocol-"  # Triton's clients send the header of a restricted group under this name

# By the name of the call, which is the same in no two services of the port.
CALLS: Mapping[str, Operation] = {
    **dict.fromkeys(("ServerLive", "ServerReady", "ModelReady", "Check", "Watch", "List"), HEALTH),
    **dict.fromkeys(("ServerMetadata", "ModelMetadata", "ServerReflectionInfo"), METADATA),
    **dict.fromkeys(("ModelInfer", "ModelStreamInfer"), INFERENCE),
    **dict.fromkeys(("SystemSharedMemoryStatus", "CudaSharedMemoryStatus"), READ_MEMORY),
    **dict.fromkeys((f"{kind}SharedMemoryRegister" for kind in ("System", "Cuda")), CHANGE_MEMORY),
    **dict.fromkeys((f"{kind}SharedMemoryUnregister" for kind in ("System", "Cuda")), CHANGE_MEMORY),
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), CHANGE_MODELS),
    "RepositoryIndex": Operation("model-repository", "read"),
    "ModelConfig": Operation("model-config", "read"),
    "ModelStatistics": Operation("statistics", "read"),
    "TraceSetting": Operation("trace", "control"),
    "LogSettings": Operation("logging", "control"),
}
# One call reads and changes these: without settings in it, it reads.
READING: Mapping[str, Operation] = {
    "TraceSetting": Operation("trace", "read"),
    "LogSettings": Operation("logging", "read"),
}


class GuardInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """`restricted_status` is what a closed API answers: PERMISSION_DENIED, or UNAVAILABLE as Triton does."""

    def __init__(self, guard: Guard, restricted_status: grpc.StatusCode) -> None:
        self._guard = guard
        self._restricted_status = restricted_status

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of the call, or one that refuses it before it reads a message."""
        call = details.method.rpartition("/")[2]
        handler = await continuation(details)
        if handler is None:
            return None  # there is no such call, which is no secret
        refusal = self._refusal(CALLS.get(call, UNKNOWN), details)
        if refusal is None:
            return handler
        if call in READING and self._refusal(READING[call], details) is None:
            return _let_read(handler, refusal)
        return _refusing(handler, refusal)

    def _refusal(self, operation: Operation, details: grpc.HandlerCallDetails) -> _Refusal | None:
        metadata = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}

        def header(name: str) -> str | None:
            value: str | None = metadata.get(name, metadata.get(TRITON_PREFIX + name))
            return value

        try:
            self._guard.check_token(operation, header)
        except ServiceError as error:
            return _Refusal(error, status_of(error)[0])
        try:
            self._guard.check_restrictions(operation, header)
        except Forbidden as error:
            return _Refusal(error, self._restricted_status)
        return None


class _Refusal:
    """Ends a call."""

    def __init__(self, error: ServiceError, status: grpc.StatusCode) -> None:
        self._error = error
        self._status = status

    async def __call__(self, context: Context) -> None:
        await context.abort(self._status, str(self._error))


def _refusing(handler: Any, refusal: _Refusal) -> Any:
    """A handler of the same kind as `handler`, so that a stream is refused without a message of the client's."""

    async def end(request: Any, context: Context) -> None:
        await refusal(context)

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    return make(end, handler.request_deserializer, handler.response_serializer)


def _let_read(handler: Any, refusal: _Refusal) -> Any:
    """`handler`, but for requests that change something."""

    async def answer(request: Any, context: Context) -> Any:
        if len(request.settings):
            await refusal(context)
        return await handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)
