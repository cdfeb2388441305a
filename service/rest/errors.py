"""From neutral error codes to HTTP: one table, one body. `{"error": "..."}`, as every v2 client reads it.

Knows nothing of gRPC; `rpc/errors.py` has the other table.
"""

from __future__ import annotations

import http

import orjson

from service.errors import Code, InvalidInput, ServiceError

STATUS = {
    Code.INVALID: 400,
    Code.UNKNOWN_SEQUENCE: 400,
    Code.NOT_FOUND: 404,
    Code.UNAVAILABLE: 503,
    Code.NOT_LOADED: 503,
    Code.QUEUE_FULL: 503,
    Code.EXHAUSTED: 429,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.DEADLINE: 504,
    Code.CANCELLED: 408,  # what asked has left: nobody reads it
    Code.UNSUPPORTED: 501,
    Code.TOO_LARGE: 413,
    Code.EXISTS: 400,
    Code.FAILED: 500,
}

Headers = list[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")  # exactly: KServe's client compares the text
BODY_TOO_LARGE, HEAD_TOO_LARGE = 413, 431  # where HTTP itself is refused, before there is a request
STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in http.HTTPStatus}


class UnknownEncoding(InvalidInput):
    """A Content-Encoding that is not known: the answer names those that are, in a header too."""


def error_body(message: str) -> bytes:
    """`{"error": message}`."""
    return orjson.dumps({"error": message.encode("utf-8", "replace").decode()})


def error_answer(error: ServiceError) -> tuple[int, Headers, bytes]:
    """Status, headers and body for an error."""
    headers: Headers = [JSON]
    if isinstance(error, UnknownEncoding):
        headers.append((b"accept-encoding", b"gzip, deflate"))
    if error.code is Code.UNAUTHENTICATED:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
    return STATUS[error.code], headers, error_body(str(error))
