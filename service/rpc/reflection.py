"""Server reflection: tools ask which services and messages there are. What answers is imported when one first asks.

Knows nothing of inference; `server.py` registers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

NAME = "grpc.reflection.v1alpha.ServerReflection"


class Reflection(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Tells of the services with these names, and of itself."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = (*names, NAME)
        self._handler: grpc.GenericRpcHandler[Any, Any] | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if not handler_call_details.method.startswith(f"/{NAME}/"):
            return None
        if self._handler is None:
            self._handler = _make_handler(self._names)
        return self._handler.service(handler_call_details)


def _make_handler(names: Sequence[str]) -> grpc.GenericRpcHandler[Any, Any]:
    from grpc_reflection.v1alpha import reflection, reflection_pb2

    answering = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,  # type: ignore[attr-defined]  # it is in __all__
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(NAME, {"ServerReflectionInfo": answering})
