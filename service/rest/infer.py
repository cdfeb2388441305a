"""The fast lane of HTTP: the infer routes of v1 and v2 as a bare ASGI application, in front of FastAPI.

A FastAPI route costs about 150 µs of processor time, this lane a fraction of that. It reads, lets `codec.py` or `v1.py`
translate, and asks the plane. `app.py` sends it the infer routes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from msgspec.structs import replace

from service.errors import ExecutionFailed, InvalidInput, ServiceError
from service.plane import Plane
from service.rest.body import Receive, read_body
from service.rest.codec import encode_infer, parse_infer
from service.rest.errors import Headers, error_answer
from service.rest.v1 import V1, Answer, Encode
from service.tensors import Buffer, InferRequest, InferResponse, Tensor, byte_size

log = logging.getLogger("torchere.frontend")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

ROUTE = re.compile(r"/(v[12])/models/([^/]+)(?:/versions/([^/]+))?/infer")
JSON_SIZE = b"inference-header-content-length"


class InferLane:
    """`await lane(scope, receive, send, match)` answers one request whose path `ROUTE` has matched."""

    def __init__(self, plane: Plane, max_body_bytes: int) -> None:
        self._plane = plane
        self._v1 = V1(plane)
        self._max_body_bytes = max_body_bytes

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send, route: re.Match[str]
    ) -> None:
        arrived = time.monotonic()
        headers = dict(scope["headers"])
        blobs: Sequence[Buffer]
        try:
            if scope["method"] != "POST":
                status, answer, blobs = 405, [(b"allow", b"POST")], [b'{"error":"use POST for inference"}']
            else:
                body = await read_body(receive, headers, self._max_body_bytes)
                status, answer, blobs = await self._answer(scope, headers, body, route, arrived)
        except ServiceError as error:
            status, answer, text = error_answer(error)
            if status == 413 or self._plane.is_draining:
                answer.append((b"connection", b"close"))
            blobs = [text]
        except Exception:  # a fault of ours: the client gets no inner detail, the log gets all
            log.exception("an inference request failed unexpectedly")
            status, answer, text = error_answer(ExecutionFailed("internal error: the server's log has the details"))
            blobs = [text]
        await _send(send, status, answer, blobs)

    async def _answer(
        self,
        scope: MutableMapping[str, Any],
        headers: dict[bytes, bytes],
        body: bytes,
        route: re.Match[str],
        arrived: float,
    ) -> Answer:
        """Translate, ask the plane, translate back; what cannot be translated is counted as refused."""
        protocol, model, version = route.groups()
        bare = InferRequest(model, version or "", (), arrived=arrived)
        try:
            if protocol == "v2" or JSON_SIZE in headers:
                request, encode = self._translate_v2(bare, headers, body)
            else:
                query = parse_qs(scope["query_string"].decode("latin-1"))
                request, encode = await self._v1.translate(bare, headers, body, query)
        except ServiceError as error:
            self._plane.refused(bare, error)
            raise
        return encode(await self._plane.infer(request))

    def _translate_v2(
        self, bare: InferRequest, headers: dict[bytes, bytes], body: bytes
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

    def _raw_request(self, bare: InferRequest, body: bytes) -> InferRequest:
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
