"""A request becomes spans with the right parents, times, links and attributes, in the SDK's own values too."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.observe.otel import Sender, make_resource
from service.observe.spans import draw
from service.observe.traceparent import TraceContext
from service.observe.watching import Asking, Watch
from service.tensors import InferResponse, Tensor
from service.traced import Ran, Step, pack_mark

SECOND = 1_000_000_000
OUTPUTS = (Tensor("y", "FP32", (1,), b"abcd"),)
PHASES = (1000, 20, 30, 400, 50)
HTTP = Asking("http", "POST /v2/models/{model}/infer", "double", "", 10.0)
GRPC = Asking("grpc", "inference.GRPCInferenceService/ModelInfer", "double", "", 10.0)
OWN, CALLER, OTHER = TraceContext(7, 8, True, "a=1"), TraceContext(7, 9, True, "a=1"), (70, 80)


def watched(ran: Ran | None, asking: Asking = HTTP, status: int | str = 200, error: str = "") -> Watch:
    watch = Watch(asking, CALLER, OWN)
    watch.request_id = "r1"
    if not error:
        watch.answered(InferResponse("double", "1", "r1", OUTPUTS, PHASES, batch=3, bucket=4, ran=ran))
        watch.encoded(10.5, 0.001)
    watch.ended, watch.status, watch.error, watch.backend = 11.0, status, error, "eager"
    return watch


def sent(watch: Watch) -> dict[str, ReadableSpan]:
    exporter = InMemorySpanExporter()
    numbers = iter(range(100, 200))
    assert Sender(exporter, Resource({"service.name": "here"}), lambda bits: next(numbers))([watch])
    return {span.name: span for span in exporter.get_finished_spans()}


def context_of(span: ReadableSpan) -> Any:
    return span.get_span_context()


def test_a_request_has_its_phases_one_after_the_other_and_its_batch() -> None:
    together = (pack_mark(OWN.trace_id, OWN.span_id), pack_mark(*OTHER), b"short")
    spans = sent(watched(Ran(began_ns=int(10.2 * SECOND), together=together)))
    assert list(spans) == [HTTP.operation, "queue", "batch", "stack", "copy_in", "compute", "copy_out", "encode"]
    own, batch = spans[HTTP.operation], spans["batch"]
    assert (context_of(own).trace_id, context_of(own).span_id) == (7, 8)
    assert own.parent is not None
    assert (own.parent.span_id, own.parent.is_remote, own.kind) == (9, True, SpanKind.SERVER)
    assert context_of(own).trace_state.get("a") == "1"
    assert (own.end_time or 0) - (own.start_time or 0) == SECOND
    at = batch.start_time or 0
    assert spans["queue"].end_time == at
    assert spans["queue"].start_time == at - 1000
    for name, took in zip(("stack", "copy_in", "compute", "copy_out"), PHASES[1:], strict=True):
        assert (spans[name].start_time, spans[name].end_time) == (at, at + took)
        assert spans[name].parent is context_of(batch)
        at += took
    assert batch.end_time == at
    assert [(link.context.trace_id, link.context.span_id) for link in batch.links] == [(7, 8), OTHER]
    assert batch.attributes == {
        "torchere.batch.id": f"{int(10.2 * SECOND):x}",
        "torchere.batch.rows": 3,
        "torchere.batch.bucket": 4,
    }


def test_the_servers_span_says_what_was_asked_and_what_answered() -> None:
    attributes = sent(watched(None))[HTTP.operation].attributes
    assert attributes == {
        "torchere.model.name": "double",
        "torchere.model.version": "1",
        "torchere.request.id": "r1",
        "torchere.backend": "eager",
        "torchere.responses": 1,
        "torchere.cache.hit": False,
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
    }
    attributes = sent(watched(None, GRPC, "OK"))[GRPC.operation].attributes or {}
    assert attributes["rpc.service"] == "inference.GRPCInferenceService"
    assert (attributes["rpc.method"], attributes["rpc.grpc.status_code"]) == ("ModelInfer", "OK")


@pytest.mark.parametrize(
    ("asking", "status", "code"),
    [
        (HTTP, 503, StatusCode.ERROR),
        (HTTP, 400, StatusCode.UNSET),
        (GRPC, "INTERNAL", StatusCode.ERROR),
        (GRPC, "INVALID_ARGUMENT", StatusCode.UNSET),
    ],
)
def test_a_failure_is_one_where_it_is_ours(asking: Asking, status: int | str, code: StatusCode) -> None:
    span = sent(watched(None, asking, status, "it was too long" + "g" * 1000))[asking.operation]
    assert span.status.status_code is code
    assert (span.attributes or {})["error.type"] == str(status)
    assert len(span.status.description or "") <= 512


def test_steps_of_an_ensemble_have_phases_and_batches_of_their_own() -> None:
    inner = Ran(int(10.3 * SECOND), (pack_mark(7, 8),))
    step = Step("affine", "2", int(10.25 * SECOND), int(10.4 * SECOND), PHASES, 2, 2, inner)
    nested = Step("twice", "1", int(10.2 * SECOND), int(10.45 * SECOND), PHASES, 2, 2, Ran(steps=(step,)))
    file = Step("preprocess.py", "", int(10.1 * SECOND), int(10.2 * SECOND))
    spans = draw(watched(Ran(steps=(file, nested))))
    names = [span.name for span in spans]
    phases = ["queue", "batch", "stack", "copy_in", "compute", "copy_out"]
    assert names == [HTTP.operation, "preprocess.py", "model twice", "model affine", *phases, "encode"]
    parents = {span.name: names[span.parent] for span in spans[1:]}
    assert parents["preprocess.py"] == parents["model twice"] == parents["encode"] == HTTP.operation
    assert parents["model affine"] == "model twice"
    assert parents["queue"] == parents["batch"] == "model affine"
    assert spans[3].attributes == {"torchere.model.name": "affine", "torchere.model.version": "2"}


def test_several_responses_are_counted_and_the_first_is_told_of() -> None:
    watch = watched(None)
    watch.answered(InferResponse("double", "1", "r1", OUTPUTS, PHASES, is_final=False))
    watch.answered(InferResponse("double", "1", "r1", (), PHASES))
    (own, *_) = draw(watch)
    assert own.attributes["torchere.responses"] == 2
    assert [name for name, _ in own.events] == ["first response"]


def test_the_standard_variables_have_the_last_word_about_who_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_resource().attributes["service.name"] == "torchere"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "vision")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-1,team=a")
    attributes = make_resource().attributes
    assert (attributes["service.name"], attributes["service.instance.id"], attributes["team"]) == (
        "vision",
        "pod-1",
        "a",
    )
    assert attributes["service.version"]
