"""A collector of traces as OpenTelemetry's: takes spans over OTLP, keeps them, answers that all is well."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

WAIT_S, POLL_S = 30.0, 0.02


class Collector(TraceServiceServicer):
    """`with Collector() as collector:` listens at `collector.url`; each span is kept with its resource's attributes."""

    def __init__(self) -> None:
        self.spans: list[tuple[Any, dict[str, Any]]] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(self, self._server)
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(self, request: Any, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        for group in request.resource_spans:
            resource = attributes(group.resource)
            self.spans += [(span, resource) for scope in group.scope_spans for span in scope.spans]
        return ExportTraceServiceResponse()

    def of_trace(self, trace_id: str) -> dict[str, Any]:
        """The spans of one trace, by name."""
        return {span.name: span for span, _ in list(self.spans) if span.trace_id.hex() == trace_id}

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WAIT_S
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not among {len(self.spans)} spans"
            time.sleep(POLL_S)
        return found

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span or a resource as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}
