"""The one tree of errors of the service, each with a neutral code.

    ServiceError
     ├── InvalidInput         the request is wrong: shape, datatype, size, JSON
     │    └── UnknownSequence it goes on with a sequence that the engine knows nothing of
     ├── NotFound             no such model, version or route
     ├── Unavailable          not ready, draining, the engine died: the same request may succeed later
     │    ├── NotLoaded       no engine has the model just now, and none ran the request
     │    └── QueueFull       too much work waits already
     │         └── Exhausted  the same, where the server is set to say so in other words
     ├── Unauthenticated      a token is missing, or not known
     ├── Forbidden            this client may not do this
     ├── DeadlineExceeded     the request's time ran out before it was answered
     ├── Cancelled            the client left
     ├── Unsupported          a feature this server does not have
     ├── TooLarge             more bytes than the settings allow
     ├── AlreadyExists        a name that is taken
     └── ExecutionFailed      the model itself failed on this input

Knows no protocol: `rest/errors.py` and `rpc/errors.py` own one table each, from code to status.
"""

from __future__ import annotations

import re
from enum import StrEnum

ABSOLUTE_PATH = re.compile(r"""(?<![\w.:/])/(?:[^\s'"/:,;()\[\]]+/)+([^\s'"/:,;()\[\]]*)""")


class Code(StrEnum):
    """What went wrong, in words that every protocol can translate."""

    INVALID = "invalid"
    UNKNOWN_SEQUENCE = "unknown_sequence"
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    NOT_LOADED = "not_loaded"
    QUEUE_FULL = "queue_full"
    EXHAUSTED = "exhausted"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too_large"
    EXISTS = "exists"
    FAILED = "failed"


class ServiceError(Exception):
    """The root. `str(error)` is the sentence the client reads: the thing, what was expected, what came, the remedy."""

    code: Code = Code.FAILED
    retry_after_s: float | None = None  # when the same request may succeed, where that can be said


class InvalidInput(ServiceError):
    code = Code.INVALID


class UnknownSequence(InvalidInput):
    code = Code.UNKNOWN_SEQUENCE


class NotFound(ServiceError):
    code = Code.NOT_FOUND


class Unavailable(ServiceError):
    code = Code.UNAVAILABLE
    retry_after_s = 2.0  # an engine takes two to three seconds to come back from the cache


class NotLoaded(Unavailable):
    code = Code.NOT_LOADED


class QueueFull(Unavailable):
    code = Code.QUEUE_FULL
    retry_after_s = 1.0


class Exhausted(QueueFull):
    code = Code.EXHAUSTED

    @classmethod
    def instead_of(cls, error: ServiceError) -> Exhausted:
        """The same, to be tried again at the same time."""
        exhausted = cls(str(error))
        exhausted.retry_after_s = error.retry_after_s or cls.retry_after_s
        return exhausted


class Unauthenticated(ServiceError):
    code = Code.UNAUTHENTICATED


class Forbidden(ServiceError):
    code = Code.FORBIDDEN


class DeadlineExceeded(ServiceError):
    code = Code.DEADLINE


class Cancelled(ServiceError):
    code = Code.CANCELLED


class Unsupported(ServiceError):
    code = Code.UNSUPPORTED


class TooLarge(ServiceError):
    code = Code.TOO_LARGE


class AlreadyExists(ServiceError):
    code = Code.EXISTS


class ExecutionFailed(ServiceError):
    code = Code.FAILED


BY_CODE: dict[Code, type[ServiceError]] = {
    cls.code: cls
    for cls in (
        InvalidInput,
        UnknownSequence,
        NotFound,
        Unavailable,
        NotLoaded,
        QueueFull,
        Exhausted,
        Unauthenticated,
        Forbidden,
        DeadlineExceeded,
        Cancelled,
        Unsupported,
        TooLarge,
        AlreadyExists,
        ExecutionFailed,
    )
}


# How a request that failed is counted; what is refused as invalid was no inference.
OUTCOMES = {
    Code.INVALID: "invalid",
    Code.UNKNOWN_SEQUENCE: "invalid",
    Code.NOT_FOUND: "invalid",
    Code.TOO_LARGE: "invalid",
    Code.UNSUPPORTED: "invalid",
    Code.UNAVAILABLE: "failed",
    Code.NOT_LOADED: "failed",
    Code.QUEUE_FULL: "rejected",
    Code.DEADLINE: "timeout",
    Code.CANCELLED: "cancelled",
}


def from_code(code: str, message: str) -> ServiceError:
    """The error that a server told as a code and a sentence."""
    return BY_CODE[Code(code)](message)


def from_inside(code: str, message: str, retry_after_s: float | None = None) -> ServiceError:
    """The error of another process of this service, in the words that a client may read."""
    error = from_code(code, without_paths(message))
    if retry_after_s is not None:
        error.retry_after_s = retry_after_s
    return error


def without_paths(sentence: str) -> str:
    """`sentence` with the last part of each absolute path alone: where files lie is no client's business.

    >>> without_paths("FileNotFoundError: no such file: '/srv/models/vocabulary.txt'")
    "FileNotFoundError: no such file: 'vocabulary.txt'"
    """
    return ABSOLUTE_PATH.sub(r"\1", sentence) if "/" in sentence else sentence
