"""A watched request as spans: the server's own, the phases within, the batch with links to all who shared it.

    POST /v2/models/digits/infer          SERVER
      queue
      batch                               links to the server spans of all traced requests of the batch
        stack, copy_in, compute, copy_out
      encode

Steps of an ensemble, Python files and calls of a generation are spans with phases and batches of their own. Pure, and
called by the exporting thread: `otel.py` gives these to the SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from service.observe.watching import Watch
from service.timing import PHASES
from service.traced import MARK_BYTES, Ran, Step, unpack_mark

Attributes = dict[str, Any]
SCALE = 1_000_000_000
MOST_TEXT = 512  # characters of an error in a span


class Span(msgspec.Struct, frozen=True):
    """One span. `parent` is the index of its parent in the list, -1 for the server's own. Times are CLOCK_MONOTONIC."""

    name: str
    parent: int
    began_ns: int
    ended_ns: int
    attributes: Attributes = {}
    links: tuple[tuple[int, int], ...] = ()  # trace id, span id
    events: tuple[tuple[str, int], ...] = ()
    error: str = ""


def draw(watch: Watch) -> list[Span]:
    """The spans of a request that has ended, the server's own first."""
    began, ended = int(watch.asking.arrived * SCALE), int(watch.ended * SCALE)
    first = (("first response", int(watch.first * SCALE)),) if watch.responses > 1 else ()
    error = watch.error[:MOST_TEXT] if _is_our_fault(watch.status) else ""
    spans = [Span(watch.asking.operation, -1, began, ended, _request(watch), events=first, error=error)]
    if watch.ran is not None:
        at = Step(watch.model, watch.version, began, ended, watch.phases_ns, watch.batch, watch.bucket, watch.ran)
        _draw_ran(spans, 0, at, watch.ran)
    if watch.encode_began:
        encode = int(watch.encode_began * SCALE)
        spans.append(Span("encode", 0, encode, encode + int(watch.encode_s * SCALE)))
    return spans


def _draw_ran(spans: list[Span], parent: int, at: Step, ran: Ran) -> None:
    """The queue and the batch of one run, and what ran within."""
    if ran.began_ns and at.phases:
        spans.append(Span("queue", parent, ran.began_ns - at.phases[0], ran.began_ns))
        ended = ran.began_ns + sum(at.phases[1:])
        links = tuple(unpack_mark(mark) for mark in ran.together if len(mark) == MARK_BYTES)
        batch = len(spans)
        spans.append(Span("batch", parent, ran.began_ns, ended, _batch(at, ran), links))
        spans.extend(_phases(batch, ran.began_ns, at.phases[1:]))
    for step in ran.steps:
        index = len(spans)
        named = {"torchere.model.name": step.name, "torchere.model.version": step.version} if step.version else {}
        spans.append(Span(_title(step), parent, step.began_ns, step.ended_ns, named))
        if step.ran is not None:
            _draw_ran(spans, index, step, step.ran)


def _phases(batch: int, began: int, spent: tuple[int, ...]) -> Iterator[Span]:
    """One after the other, as they ran."""
    for name, taken in zip(PHASES[1:], spent, strict=False):
        yield Span(name, batch, began, began + taken)
        began += taken


def _title(step: Step) -> str:
    return f"model {step.name}" if step.version else step.name


def _batch(at: Step, ran: Ran) -> Attributes:
    return {
        "torchere.batch.id": f"{ran.began_ns:x}",  # the same in all who shared it
        "torchere.batch.rows": at.batch,
        "torchere.batch.bucket": at.bucket,
    }


def _request(watch: Watch) -> Attributes:
    asking = watch.asking
    known: Attributes = {
        "torchere.model.name": watch.model,
        "torchere.model.version": watch.version,
        "torchere.request.id": watch.request_id,
        "torchere.backend": watch.backend,
    }
    if asking.protocol == "grpc":
        service, _, method = asking.operation.partition("/")
        known |= {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        known["rpc.grpc.status_code"] = watch.status
    else:
        verb, _, route = asking.operation.partition(" ")
        known |= {"http.request.method": verb, "http.route": route, "http.response.status_code": watch.status}
    if watch.responses:
        known["torchere.responses"] = watch.responses
        known["torchere.cache.hit"] = not watch.phases_ns
    if watch.error:
        known["error.type"] = str(watch.status)
    return {name: value for name, value in known.items() if value != ""}


def _is_our_fault(status: int | str) -> bool:
    """By the conventions of OpenTelemetry a server's span has failed where the server has."""
    return status >= 500 if isinstance(status, int) else status in OUR_FAULTS


OUR_FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
