"""From neutral error codes to gRPC: one table, and the one place where a call is refused.

Knows nothing of HTTP; `rest/errors.py` has the other table. `servicer.py` wraps each call in `Refusals`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import grpc

from service.errors import Code, ServiceError
from service.observe.watching import fields_of
from service.tensors import InferRequest

log = logging.getLogger("torchere.rpc")

Context = grpc.aio.ServicerContext[Any, Any]

STATUS = {
    Code.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNKNOWN_SEQUENCE: grpc.StatusCode.INVALID_ARGUMENT,
    Code.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Code.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Code.NOT_LOADED: grpc.StatusCode.UNAVAILABLE,
    Code.QUEUE_FULL: grpc.StatusCode.UNAVAILABLE,  # the one status that KServe's client tries again
    Code.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Code.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Code.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Code.CANCELLED: grpc.StatusCode.CANCELLED,
    Code.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Code.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself answers an oversized message
    Code.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Code.FAILED: grpc.StatusCode.INTERNAL,
}

NEUTRAL_SENTENCE = "the server failed on this call: its log has the cause"

# A status travels percent-encoded in the trailers, which clients limit to 8 KiB: a longer one would hide the refusal.
# Encoding takes up to 3 bytes for an ASCII character and 12 for any other.
ASCII_LIMIT_CHARACTERS = 2000
OTHER_LIMIT_CHARACTERS = 500


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status and the sentence a client gets; what is not a ServiceError is told in neutral words."""
    if isinstance(error, ServiceError):
        return STATUS[error.code], shortened(str(error))
    return grpc.StatusCode.INTERNAL, NEUTRAL_SENTENCE


def shortened(sentence: str) -> str:
    """`sentence`, cut to what fits a gRPC status."""
    limit = ASCII_LIMIT_CHARACTERS if sentence.isascii() else OTHER_LIMIT_CHARACTERS
    return sentence if len(sentence) <= limit else f"{sentence[:limit]}..."


def log_unexpected(error: Exception, about: Mapping[str, str]) -> None:
    """Log what is not a ServiceError, with its stack, for the client is not told; `about` names the request."""
    if not isinstance(error, ServiceError):
        log.error("a gRPC call failed: %s", error, exc_info=error, extra=about)


def pushback(error: Exception) -> tuple[tuple[str, str], ...]:
    """The trailer that tells a retrying client how long to wait (gRPC proposal A6)."""
    if isinstance(error, ServiceError) and error.retry_after_s is not None:
        return (("grpc-retry-pushback-ms", str(round(error.retry_after_s * 1000))),)
    return ()


async def refuse(context: Context, error: Exception, about: Mapping[str, str]) -> None:
    """End the call with the status of `error`. Raises grpc.aio.AbortError, always."""
    log_unexpected(error, about)
    code, sentence = status_of(error)
    await context.abort(code, sentence, pushback(error))


class Refusals:
    """`async with Refusals(context): ...` ends the call with the right status where the body raises.

    Cancellation passes through: the client left, nobody reads a status.
    """

    __slots__ = ("_context", "request")

    def __init__(self, context: Context) -> None:
        self.request: InferRequest | None = None  # once it is known what the call asks
        self._context = context

    async def __aenter__(self) -> Refusals:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            await refuse(self._context, error, fields_of(self.request) if self.request is not None else {})
