"""A line in the log for each gRPC call that is no inference, or is refused before it is any: an interceptor.

Knows no call by its content. `server.py` installs it where the access log is on; `servicer.py` has inference watched.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.observe.traceparent import TRACEPARENT
from service.observe.watching import Asking, Watcher
from service.rpc.errors import Context

INFERENCE = ("ModelInfer", "ModelStreamInfer")
REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")  # by the guard; nothing else answers so
NAMES = {status.value[0]: status.name for status in grpc.StatusCode}


class AccessInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Calls with one request and one answer; streams of inference have a line for each request."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of the call, with a line when it has answered."""
        handler = await continuation(details)
        if handler is None or not handler.unary_unary:
            return handler
        operation = details.method.removeprefix("/")
        is_inference = operation.rpartition("/")[2] in INFERENCE
        trace = next((value for key, value in details.invocation_metadata or () if key == TRACEPARENT), "")
        watcher = self._watcher

        async def answer(request: Any, context: Context) -> Any:
            arrived = time.monotonic()
            try:
                return await handler.unary_unary(request, context)
            finally:
                status = name_of(context.code())
                if not is_inference or status in REFUSED:
                    watcher.note(Asking("grpc", operation, "", "", arrived, str(trace)), status)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


def name_of(code: Any) -> str:
    """`OK`, `NOT_FOUND`, whether gRPC gives the status or its number; none has been set where all went well."""
    return code.name if isinstance(code, grpc.StatusCode) else NAMES.get(code or 0, str(code))
