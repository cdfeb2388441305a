"""The fast lane of HTTP: the infer routes of v1 and v2, in front of FastAPI, whose routes cost more than the lane.

It lets `codec.py` or `v1.py` translate, and asks the plane. `protocol.py` calls it without ASGI where it can, `app.py`
with it where not.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec
from msgspec.structs import replace

from service.errors import ExecutionFailed, InvalidInput, ServiceError, TooLarge
from service.plane import Plane
from service.rest.body import Receive, read_body, unpack
from service.rest.codec import encode_infer, parse_infer
from service.rest.errors import Headers, error_answer, error_body
from service.rest.v1 import V1, Answer, Encode
from service.tensors import Buffer, InferRequest, InferResponse, Tensor, byte_size

log = logging.getLogger("torchere.frontend")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROUTE = re.compile(r"/(v[12])/models/([^/]+)(?:/versions/([^/]+))?/infer")
JSON_SIZE = b"inference-header-content-length"


class Asked(msgspec.Struct, frozen=True):
    """One HTTP request to an infer route, its body still as it came."""

    route: re.Match[str]
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes | bytearray
    arrived: float


class InferLane:
    """`await lane.answer(asked)`: status, headers and body of one request whose path `ROUTE` has matched."""

    def __init__(self, plane: Plane, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self._plane = plane
        self._v1 = V1(plane)

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, route: re.Match[str]
    ) -> None:
        """The same as an ASGI application, for what the protocol class leaves to it."""
        arrived = time.monotonic()
        headers = dict(scope["headers"])
        try:
            if scope["method"] != "POST":
                answer: Answer = 405, [(b"allow", b"POST")], [error_body("use POST for inference")]
            else:
                body = await read_body(receive, headers, self.max_body_bytes)
                answer = await self.answer(Asked(route, scope["query_string"], headers, body, arrived))
        except ServiceError as error:
            answer = self.refusal(error)
        await _send(send, *answer)

    async def answer(self, asked: Asked) -> Answer:
        """Never raises: every failure has its status and its sentence."""
        try:
            return await self._answer(asked)
        except ServiceError as error:
            return self.refusal(error)
        except Exception:  # a fault of ours: the client gets no inner detail, the log gets all
            log.exception("an inference request failed unexpectedly")
            return self.refusal(ExecutionFailed("internal error: the server's log has the details"))

    def refusal(self, error: ServiceError) -> Answer:
        """The answer for an error; it ends the connection where nothing more can come of it."""
        status, headers, text = error_answer(error)
        if isinstance(error, TooLarge) or self._plane.is_draining:
            headers.append((b"connection", b"close"))
        return status, headers, [text]

    async def _answer(self, asked: Asked) -> Answer:
        """Translate, ask the plane, translate back; what cannot be translated is counted as refused."""
        protocol, model, version = asked.route.groups()
        bare = InferRequest(model, version or "", (), arrived=asked.arrived)
        try:
            body = unpack(asked.body, asked.headers, self.max_body_bytes)
            if protocol == "v2" or JSON_SIZE in asked.headers:
                request, encode = self._translate_v2(bare, asked.headers, body)
            else:
                query = parse_qs(asked.query.decode("latin-1"))
                request, encode = await self._v1.translate(bare, asked.headers, body, query)
        except ServiceError as error:
            self._plane.refused(bare, error)
            raise
        return encode(await self._plane.infer(request))

    def _translate_v2(
        self, bare: InferRequest, headers: dict[bytes, bytes], body: bytes | bytearray
    ) -> tuple[InferRequest, Encode]:
        """An Open Inference Protocol v2 request, JSON with or without binary tensors, or raw binary."""
        size = headers.get(JSON_SIZE)
        if size is not None and not size.isdigit():
            raise InvalidInput(f"Inference-Header-Content-Length must be a number, got '{size.decode('latin-1')[:40]}'")
        if size == b"0":
            return self._raw_request(bare, body), lambda response: _encode_v2(response, {}, True)
        parsed = parse_infer(memoryview(body), None if size is None else int(size))
        request = parsed.asked_of(bare)
        return request, lambda response: _encode_v2(response, parsed.binary, parsed.binary_default)

    def _raw_request(self, bare: InferRequest, body: bytes | bytearray) -> InferRequest:
        """The whole body is the one input, a batch of one; its one varying dimension follows from the size."""
        entry = self._plane.catalog.ready_entry(bare.model, bare.version)
        if len(entry.inputs) != 1:
            raise InvalidInput(
                f"a raw binary request needs a model with one input, '{entry.name}' has {len(entry.inputs)}"
            )
        spec = entry.inputs[0]
        shape = (1, *spec.shape[1:]) if entry.max_batch_size else spec.shape
        if shape.count(-1) == 1:
            item = byte_size(spec.datatype, tuple(size for size in shape if size != -1))
            shape = tuple(len(body) // max(item, 1) if size == -1 else size for size in shape)
        return replace(bare, inputs=(Tensor(spec.name, spec.datatype, shape, body),))


def _encode_v2(response: InferResponse, binary: dict[str, bool], binary_default: bool) -> Answer:
    text, blobs = encode_infer(response, binary, binary_default)
    if not blobs:
        return 200, [(b"content-type", b"application/json")], [text]
    sized = [(b"content-type", b"application/octet-stream"), (JSON_SIZE, str(len(text)).encode())]
    return 200, sized, [text, *blobs]


async def _send(send: Send, status: int, headers: Headers, blobs: Sequence[Buffer]) -> None:
    """One body, whole: joining costs a copy, but a second write costs more for all but the largest answers."""
    body = bytes(blobs[0]) if len(blobs) == 1 else b"".join(blobs)
    if not any(name == b"content-type" for name, _ in headers):
        headers.append((b"content-type", b"application/json"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
