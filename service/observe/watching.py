"""What becomes of a request that is traced, or of every request where an access log or a log of slow ones is wanted.

A door begins a Watch, tells it what happens and ends it: lines are written, and a traced one goes to `exporting.py`.
Where nothing is wanted there is no Watcher, and of a request of no interest no Watch. Knows no OpenTelemetry.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Protocol

import msgspec

from service.errors import ServiceError
from service.observe.logs import RateLimit
from service.observe.sampling import Sampler
from service.observe.sampling import Settings as TraceSettings
from service.observe.traceparent import TraceContext, parse_traceparent
from service.tensors import InferRequest, InferResponse
from service.timing import PHASES
from service.traced import Ran, pack_mark

access_log = logging.getLogger("torchere.access")
slow_log = logging.getLogger("torchere.slow")

ID_CHARACTERS = 128  # of what a client calls its request or the model, in lines and spans
PATH_CHARACTERS = 256
LEFT = "the client left"
CLIENT_LEFT = 499  # as proxies log it: there is no status of HTTP for what nobody reads
SLOW_LINES, SLOW_PER_S = 10, 10.0  # a slow server must not be slowed down by saying so


class Asking(msgspec.Struct, frozen=True):
    """A request as a door knows it before it is read. `arrived` is CLOCK_MONOTONIC in seconds.

    `operation` is what the span is called: the verb and the path, or the call.
    """

    protocol: str
    operation: str
    model: str
    version: str
    arrived: float
    traceparent: str = ""
    tracestate: str = ""


class Watch:
    """One request. `context` is its own span where it is traced, `parent` what the client is in."""

    __slots__ = (
        *("asking", "backend", "batch", "bucket", "context", "encode_began", "encode_s", "ended", "error", "first"),
        "is_over",
        *("model", "parent", "phases_ns", "ran", "request_id", "responses", "status", "version"),
    )

    def __init__(self, asking: Asking, parent: TraceContext | None, context: TraceContext | None) -> None:
        self.asking = asking
        self.parent = parent
        self.context = context
        self.model, self.version = asking.model[:ID_CHARACTERS], asking.version[:ID_CHARACTERS]
        self.request_id = self.backend = self.error = ""
        self.status: int | str = ""
        self.phases_ns: tuple[int, ...] = ()
        self.batch = self.bucket = self.responses = 0
        self.ran: Ran | None = None
        self.is_over = False  # the last response has come: who leaves now misses nothing
        self.first = self.encode_began = self.encode_s = self.ended = 0.0

    def mark(self, request: InferRequest) -> InferRequest:
        """The request with what the plane and the engine must know of it."""
        self.request_id = request.id[:ID_CHARACTERS]
        if self.context is None:
            return request
        mark = pack_mark(self.context.trace_id, self.context.span_id)
        return msgspec.structs.replace(request, trace=self.context.traceparent, mark=mark)

    def answered(self, response: InferResponse) -> None:
        """A response has come: the only one, or one of several, of which the last has no outputs."""
        self.responses += bool(response.outputs)
        self.is_over = response.is_final
        self.first = self.first or time.monotonic()
        self.version, self.phases_ns = response.version, response.phases_ns
        self.batch, self.bucket, self.ran = response.batch, response.bucket, response.ran

    async def over(self, responses: AsyncGenerator[InferResponse]) -> AsyncGenerator[InferResponse]:
        """The same responses."""
        try:
            async with aclosing(responses):
                async for response in responses:
                    self.answered(response)
                    yield response
        except ServiceError as error:
            self.error = str(error)
            raise
        except (GeneratorExit, asyncio.CancelledError):
            self.error = "" if self.is_over else LEFT
            raise

    def encoded(self, began: float, seconds: float) -> None:
        """It took so long to turn the answer into bytes."""
        self.encode_began, self.encode_s = began, seconds

    @property
    def seconds(self) -> float:
        return self.ended - self.asking.arrived

    @property
    def title(self) -> str:
        """The operation, with the model in its path."""
        return self.asking.operation[:PATH_CHARACTERS].replace("{model}", self.model)

    @property
    def fields(self) -> dict[str, str]:
        """What every line about this request carries."""
        known = {"request_id": self.request_id, "model": self.model, "version": self.version}
        trace = self.context or self.parent
        if trace is not None:
            known["trace_id"] = trace.trace_text
        return {name: text for name, text in known.items() if text}


def fields_of(request: InferRequest) -> dict[str, str]:
    """What a line about a request carries where nobody watches it."""
    trace = parse_traceparent(request.trace)
    known = {"request_id": request.id[:ID_CHARACTERS], "model": request.model[:ID_CHARACTERS]}
    known["trace_id"] = trace.trace_text if trace is not None else ""
    return {name: text for name, text in known.items() if text}


class Exporting(Protocol):
    """Where traced requests go. Never blocks."""

    def put(self, watch: Watch) -> None: ...


class Watcher:
    """`begin` at the door; `finish` when the answer is ready to be sent, or will never be."""

    def __init__(self, *, logs_access: bool = False, slow_s: float = 0.0) -> None:
        self.logs_access = logs_access
        self._slow_s = slow_s
        self._wants_all = logs_access or slow_s > 0
        self._sampler: Sampler | None = None
        self._exporting: Exporting | None = None
        self._backend_of: Callable[[str, str], str] = lambda model, version: ""
        self._slow_lines = RateLimit(SLOW_LINES, SLOW_PER_S)

    def trace(self, sampler: Sampler, exporting: Exporting, backend_of: Callable[[str, str], str]) -> None:
        """Trace what `sampler` chooses from now on; `backend_of` a model and version names what runs it."""
        self._sampler, self._exporting, self._backend_of = sampler, exporting, backend_of

    def follow(self, settings: Mapping[str, TraceSettings]) -> None:
        """Clients have changed what is traced."""
        if self._sampler is not None:
            self._sampler.follow(settings)

    def passes_by(self, model: str) -> bool:
        """Whether nothing will be said of a request that belongs to no trace; where not, ask `begin` next."""
        return not self._wants_all and (self._sampler is None or not self._sampler.would_choose(model))

    def begin(self, asking: Asking) -> Watch | None:
        """None where nothing will be said of the request."""
        parent = parse_traceparent(asking.traceparent, asking.tracestate) if asking.traceparent else None
        context = self._sampler.choose(asking.model, parent) if self._sampler is not None else None
        if context is None and not self._wants_all:
            return None
        return Watch(asking, parent, context)

    def finish(self, watch: Watch, status: int | str, error: str = "") -> None:
        """The request has ended: with a status of its protocol, and for what reason where it was not answered."""
        watch.ended, watch.status, watch.error = time.monotonic(), status, error or watch.error
        if self.logs_access:
            _log_access(watch)
        if 0 < self._slow_s <= watch.seconds:
            self._log_slow(watch)
        if watch.context is not None and self._exporting is not None:
            if watch.responses:
                watch.backend = self._backend_of(watch.model, watch.version)
            self._exporting.put(watch)

    def note(self, asking: Asking, status: int | str) -> None:
        """A request that is no inference, or was refused before it was any."""
        if self.logs_access:
            watch = Watch(asking, parse_traceparent(asking.traceparent), None)
            watch.ended, watch.status = time.monotonic(), status
            _log_access(watch)

    def _log_slow(self, watch: Watch) -> None:
        left_out = self._slow_lines.take(watch.ended)
        if left_out is None:
            return
        spent_ms = _phases_ms(watch)
        phases = ", ".join(f"{name} {spent:.1f}" for name, spent in spent_ms.items())
        missing = f"; {left_out} more were not told of" if left_out else ""
        slow_log.warning(
            "slow: %s of model %s took %.1f ms: %s%s",
            *(watch.title, watch.model, watch.seconds * 1e3, phases or "not run", missing),
            extra={**watch.fields, **_measures(watch), "phases_ms": spent_ms},
        )


def _phases_ms(watch: Watch) -> dict[str, float]:
    """Where the time went, in milliseconds; `other` is what no phase accounts for, as reading and checking."""
    spent = {name: value / 1e6 for name, value in zip(PHASES, watch.phases_ns, strict=False)}
    if watch.encode_s:
        spent["encode"] = watch.encode_s * 1e3
    if spent:
        spent["other"] = max(0.0, watch.seconds * 1e3 - sum(spent.values()))
    return {name: round(value, 3) for name, value in spent.items()}


def _measures(watch: Watch) -> dict[str, object]:
    return {
        "protocol": watch.asking.protocol,
        "status": watch.status,
        "seconds": round(watch.seconds, 6),
        "batch": watch.batch,
    }


def _log_access(watch: Watch) -> None:
    if not access_log.isEnabledFor(logging.INFO):
        return
    batch = f", batch {watch.batch}" if watch.batch else ""
    access_log.info(
        "%s %s in %.2f ms%s",
        *(watch.title, watch.status, watch.seconds * 1e3, batch),
        extra={**watch.fields, **_measures(watch)},
    )
