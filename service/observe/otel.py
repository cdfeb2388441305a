"""The one place that imports OpenTelemetry: spans as its SDK has them, sent by OTLP over gRPC.

Imported where tracing is on, on the extra [otel]. `spans.py` says what spans there are, `exporting.py` has the thread.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from service import __version__
from service.observe.spans import Span, draw
from service.observe.traceparent import TraceContext
from service.observe.watching import Watch

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
NONE = TraceState()


class Sender:
    """`send(watches)` makes their spans and gives them to `exporter`; what is not given is made for production."""

    def __init__(self, exporter: SpanExporter, resource: Resource, draw_bits: Callable[[int], int]) -> None:
        self._exporter = exporter
        self._resource = resource
        self._draw_bits = draw_bits
        self._scope = InstrumentationScope("torchere", __version__)
        self._since_1970_ns = time.time_ns() - time.monotonic_ns()

    def __call__(self, watches: Sequence[Watch]) -> bool:
        """Whether they were taken."""
        self._since_1970_ns = time.time_ns() - time.monotonic_ns()  # clocks are set, so anew each time
        spans = [span for watch in watches for span in self._spans(watch)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def _spans(self, watch: Watch) -> list[ReadableSpan]:
        own = watch.context
        assert own is not None, "only what is traced comes here"
        state = TraceState.from_header([own.state]) if own.state else NONE
        contexts: list[SpanContext] = []
        made = []
        for span in draw(watch):
            identity = own.span_id if span.parent < 0 else self._draw_bits(64) or 1
            contexts.append(SpanContext(own.trace_id, identity, False, SAMPLED, state))
            parent = contexts[span.parent] if span.parent >= 0 else _remote(watch.parent, state)
            made.append(self._readable(span, contexts[-1], parent))
        return made

    def _readable(self, span: Span, context: SpanContext, parent: SpanContext | None) -> ReadableSpan:
        at = self._since_1970_ns
        return ReadableSpan(
            span.name,
            context,
            parent,
            self._resource,
            span.attributes,
            [Event(name, None, at + when) for name, when in span.events],
            [Link(SpanContext(trace, identity, True, SAMPLED)) for trace, identity in span.links],
            SpanKind.SERVER if span.parent < 0 else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=at + span.began_ns,
            end_time=at + span.ended_ns,
            instrumentation_scope=self._scope,
        )


def _remote(parent: TraceContext | None, state: TraceState) -> SpanContext | None:
    return None if parent is None else SpanContext(parent.trace_id, parent.span_id, True, SAMPLED, state)


def make_sender(endpoint: str | None) -> Sender:
    """To `endpoint`, or where OTEL_EXPORTER_OTLP_ENDPOINT says; its headers, certificates and so on hold too."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `exporting.py` says it once, not for each batch
    return Sender(OTLPSpanExporter(endpoint=endpoint), make_resource(), random.getrandbits)


def make_resource() -> Resource:
    """Who we are; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word."""
    ours = Resource(
        {
            "service.name": "torchere",
            "service.version": __version__,
            "service.instance.id": socket.gethostname(),
            "process.pid": os.getpid(),
        }
    )
    given = Resource.create()
    if str(given.attributes.get("service.name", "")).startswith("unknown_service"):
        given = Resource({name: value for name, value in given.attributes.items() if name != "service.name"})
    return ours.merge(given)
