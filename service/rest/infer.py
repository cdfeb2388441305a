"""The fast lane of HTTP: every infer route, in front of FastAPI, whose routes cost more than the lane.

It lets `codec.py`, `v1.py`, `tf_serving.py` or `torch_serve.py` translate, and asks the plane. `protocol.py` calls it
without ASGI where it can, `app.py` with it where not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec
from msgspec.structs import replace

from service.engine.arena import Arena
from service.errors import ExecutionFailed, InvalidInput, ServiceError, TooLarge
from service.limits import Limits
from service.load_report import ASK_LOAD, LOAD, load_report
from service.observe.watching import CLIENT_LEFT, LEFT, Watch, Watcher
from service.plane import Plane
from service.rest.body import Receive, choose_encoding, compress, read_body, unpack
from service.rest.codec import encode_infer, parse_infer
from service.rest.cycle import LaneCycle
from service.rest.doors import Answer, Content, Translated
from service.rest.errors import JSON, Headers, error_answer, error_body
from service.rest.events import send_events
from service.rest.familiar import Familiar
from service.rest.generate import ask_for_one, encode_event, encode_generated, read_generate
from service.rest.operations import INFERENCE
from service.rest.raw import read_one_row
from service.rest.routes import Route
from service.rest.tf_serving import Predict
from service.rest.torch_serve import Predictions
from service.rest.v1 import V1
from service.rest.watched import TRACE, Send, asking_of, log_fault
from service.security import Guard, Header
from service.tensors import Buffer, InferRequest, InferResponse
from service.timing import ASK, is_wanted, server_timing

INTERNAL = "internal error: the server's log has the details"
JSON_SIZE = b"inference-header-content-length"
MAX_DIGITS = 18  # more than any body has; Python refuses to read numbers of thousands of digits


class Asked(msgspec.Struct, frozen=True):
    """One HTTP request to an infer route, its body still as it came."""

    route: Route
    query: bytes
    headers: dict[bytes, bytes]
    body: Buffer
    arrived: float


def asked_of(cycle: LaneCycle) -> Asked:
    """The request that has come on a connection, which lets go of its body."""
    return Asked(cycle.route, cycle.query, cycle.headers, cycle.take_body(), cycle.arrived)


class InferLane:
    """`await lane.answer(asked)`: status, headers and body of one request whose path is a Route."""

    def __init__(self, plane: Plane, limits: Limits, prefix: str = "", guard: Guard | None = None) -> None:
        self.limits = limits
        self.prefix = prefix.encode()  # of every path
        self.familiar = Familiar(plane, limits)
        self.templates = plane.templates
        self.opening = b""  # of answers: status and the server's own headers, as made of `opened_with`
        self.opened_with: Headers = []
        self.watcher: Watcher | None = None
        self.arena: Arena | None = None  # where large bodies are received
        self._guard = guard
        self._plane = plane
        self._v1 = V1(plane)
        self._predict = Predict(plane)
        self._predictions = Predictions(plane)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, route: Route) -> None:
        """The same as an ASGI application, for what the protocol class leaves to it."""
        arrived = time.monotonic()
        headers = dict(scope["headers"])
        allowed = ("POST", "PUT") if route.door == "predictions" else ("POST",)  # curl -T puts
        try:
            if scope["method"] not in allowed:
                names = " or ".join(allowed)
                self._note(route, headers, arrived, scope["method"], 405)
                answer: Answer = (
                    405,
                    [JSON, (b"allow", ", ".join(allowed).encode())],
                    [error_body(f"{scope['method'][:20]} is not for inference: use {names}")],
                )
            else:
                try:
                    body = await read_body(receive, headers, self.limits.body_bytes)
                except ServiceError as error:
                    self._note(route, headers, arrived, scope["method"], error_answer(error)[0])
                    raise
                asked = Asked(route, scope["query_string"], headers, body, arrived)
                if route.door == "generate_stream":
                    await self._stream(asked, receive, send)
                    return
                answer = await self.answer(asked)
        except ServiceError as error:
            answer = self.refusal(error)
        await send_answer(send, *answer)

    def admits(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request with these headers may ask for inference; where not, the way of ASGI says why."""
        if self._guard is None:
            return True
        try:
            self._guard.check(INFERENCE, header_of(headers))
        except ServiceError:
            return False
        return True

    async def answer(self, asked: Asked) -> Answer:
        """Never raises: every failure has its status and its sentence."""
        watch = self._watch(asked) if self.watcher is not None else None
        reason = ""
        try:
            answer = await self._answer(asked, watch)
        except ServiceError as error:
            answer, reason = self.refusal(error), str(error)
        except asyncio.CancelledError:
            if watch is not None and self.watcher is not None:
                self.watcher.finish(watch, CLIENT_LEFT, LEFT)
            raise
        except Exception:  # noqa: BLE001 - a fault of ours, logged with its stack
            log_fault(InferRequest(asked.route.model, asked.route.version, ()))
            answer, reason = self.refusal(ExecutionFailed(INTERNAL)), INTERNAL
        if watch is not None and self.watcher is not None:
            self.watcher.finish(watch, answer[0], reason)
        return answer

    def refusal(self, error: ServiceError) -> Answer:
        """The answer for an error; it ends the connection where nothing more can come of it."""
        status, headers, text = error_answer(error)
        if isinstance(error, TooLarge) or self._plane.is_draining:
            headers.append((b"connection", b"close"))
        return status, headers, [text]

    async def _answer(self, asked: Asked, watch: Watch | None) -> Answer:
        """Translate, ask the plane, translate back; what cannot be translated is counted as refused."""
        request, encode = await self._translate(asked, watch)
        try:
            if asked.route.door == "generate":
                response = await ask_for_one(self._plane, request)
            else:
                response = await self._plane.infer(request)
            began = time.monotonic()
            answer, headers = encode(response), asked.headers
            spent = time.monotonic() - began
        except ServiceError:
            raise
        except Exception as error:
            log_fault(request)
            raise ExecutionFailed(INTERNAL) from error
        self._plane.encoded(response, spent)
        if watch is not None:
            watch.answered(response)
            watch.encoded(began, spent)
        if b"accept-encoding" in headers:
            answer = await _packed(answer, headers[b"accept-encoding"])
        if ASK_LOAD in headers:
            answer[1].extend(self._load(response, headers[ASK_LOAD]))
        if ASK in headers and is_wanted(headers[ASK]):
            answer[1].append((b"server-timing", self._timing(response, asked.arrived)))
        return answer

    async def _stream(self, asked: Asked, receive: Receive, send: Send) -> None:
        """Each response as an event. Raises ServiceError where there is nothing to be sent but that."""
        watch = self._watch(asked)
        status, reason = 200, ""
        try:
            request, _ = await self._translate(asked, watch)
            responses = self._plane.stream(request)
            watched = responses if watch is None else watch.over(responses)
            error = await send_events(watched, encode_event, receive, send)
            if error is not None:
                raise error
        except ServiceError as error:
            status, reason = error_answer(error)[0], str(error)
            raise
        finally:
            if watch is not None and self.watcher is not None:
                self.watcher.finish(watch, status, reason)

    async def _translate(self, asked: Asked, watch: Watch | None) -> Translated:
        """The request for the plane, marked where it is watched, and the way back."""
        if watch is None:
            return await self._read(asked)
        request, encode = await self._read(asked)
        return watch.mark(request), encode

    def _watch(self, asked: Asked) -> Watch | None:
        if self.watcher is None or (TRACE not in asked.headers and self.watcher.passes_by(asked.route.model)):
            return None
        return self.watcher.begin(asking_of(asked.route, asked.headers, asked.arrived))

    def _note(self, route: Route, headers: dict[bytes, bytes], arrived: float, verb: str, status: int) -> None:
        """A request that was refused unread."""
        if self.watcher is not None:
            self.watcher.note(asking_of(route, headers, arrived, verb), status)

    async def _read(self, asked: Asked) -> Translated:
        route, headers = asked.route, asked.headers
        bare = InferRequest(route.model, route.version, (), arrived=asked.arrived)
        if TRACE in headers:
            bare = replace(bare, trace=headers[TRACE].decode("latin-1"))
        try:
            body = asked.body
            if b"content-encoding" in headers:
                body = await unpack(body, headers, self.limits.body_bytes)
            if route.door == "v2" or (route.door == "v1" and JSON_SIZE in headers):
                return self._translate_v2(bare, headers, body)
            return await self._translate_by_door(bare, asked, body)
        except ServiceError as error:
            self._plane.refused(bare, error)
            raise

    async def _translate_by_door(self, bare: InferRequest, asked: Asked, body: Buffer) -> Translated:
        query = parse_qs(asked.query.decode("latin-1")) if asked.query else {}
        content = Content(asked.headers, body, query, self.limits)
        match asked.route.door:
            case "predict":
                if asked.route.label:
                    version = self._plane.version_of(bare.model, asked.route.label)
                    bare = replace(bare, version=version)
                return await self._predict.translate(bare, content, asked.route.verb)
            case "generate" | "generate_stream":
                entry = self._plane.catalog.ready_entry(bare.model, bare.version)
                return read_generate(entry, bare, body, self.limits), encode_generated
            case "predictions":
                return await self._predictions.translate(bare, content)
            case _:
                return await self._v1.translate(bare, content)

    def _translate_v2(self, bare: InferRequest, headers: dict[bytes, bytes], body: Buffer) -> Translated:
        """An Open Inference Protocol v2 request, JSON with or without binary tensors, or raw binary."""
        size = headers.get(JSON_SIZE)
        if size == b"0":
            entry = self._plane.catalog.ready_entry(bare.model, bare.version)
            raw_request = replace(bare, inputs=(read_one_row(entry, body),))
            return raw_request, lambda response: _encode_v2(response, {}, True)
        if size is not None and (not size.isdigit() or len(size) > MAX_DIGITS):
            shown = size.decode("latin-1")[:40]
            raise InvalidInput(f"Inference-Header-Content-Length must be a number of bytes, got '{shown}'")
        parsed = parse_infer(body, None if size is None else int(size), self.limits)
        return parsed.asked_of(bare), lambda response: _encode_v2(response, parsed.binary, parsed.binary_default)

    def _load(self, response: InferResponse, wanted: bytes) -> Headers:
        entry = self._plane.catalog.entry(response.model, response.version)
        report = load_report(wanted, self._plane.in_flight, entry.batching.max_queue_size)
        return [(LOAD, report)] if report else []

    def _timing(self, response: InferResponse, arrived: float) -> bytes:
        backend = self._plane.catalog.entry(response.model, response.version).rung
        seconds = time.monotonic() - arrived
        return server_timing(response.phases_ns, seconds, response.batch, response.bucket, backend)


def header_of(headers: dict[bytes, bytes]) -> Header:
    """As the guard asks for a header."""

    def header(name: str) -> str | None:
        value = headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    return header


def _encode_v2(response: InferResponse, binary: dict[str, bool], binary_default: bool) -> Answer:
    text, blobs = encode_infer(response, binary, binary_default)
    if not blobs:
        return 200, [JSON], [text]
    sized = [(b"content-type", b"application/octet-stream"), (JSON_SIZE, str(len(text)).encode())]
    return 200, sized, [text, *blobs]


async def _packed(answer: Answer, accepted: bytes) -> Answer:
    """The answer compressed as the client asks, or as it is."""
    status, headers, blobs = answer
    encoding = choose_encoding(accepted, sum(map(len, blobs)), is_text=headers[0] == JSON)
    if encoding is None:
        return answer
    return status, [*headers, (b"content-encoding", encoding)], await compress(blobs, encoding)


async def send_answer(send: Send, status: int, headers: Headers, blobs: Sequence[Buffer]) -> None:
    """One body, whole: joining costs a copy, but a second write costs more for all but the largest answers."""
    body = bytes(blobs[0]) if len(blobs) == 1 else b"".join(blobs)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
