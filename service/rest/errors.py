"""From neutral error codes to HTTP: one table, one body. `{"error": "..."}`, as every v2 client reads it.

Knows nothing of gRPC; `rpc/errors.py` has the other table.
"""

from __future__ import annotations

import orjson

from service.errors import Code, ServiceError

STATUS = {
    Code.INVALID: 400,
    Code.NOT_FOUND: 404,
    Code.UNAVAILABLE: 503,
    Code.QUEUE_FULL: 503,
    Code.DEADLINE: 504,
    Code.CANCELLED: 408,  # what asked has left: nobody reads it
    Code.UNSUPPORTED: 501,
    Code.TOO_LARGE: 413,
    Code.EXISTS: 400,
    Code.FAILED: 500,
}

Headers = list[tuple[bytes, bytes]]


def error_body(message: str) -> bytes:
    """`{"error": message}`."""
    return orjson.dumps({"error": message})


def error_answer(error: ServiceError) -> tuple[int, Headers, bytes]:
    """Status, headers and body for an error."""
    headers: Headers = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
    return STATUS[error.code], headers, error_body(str(error))
