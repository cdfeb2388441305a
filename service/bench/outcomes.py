"""How a request ended, as one small number, and the words for it.

0 is success; 100 to 599 are HTTP statuses; 1000 and above gRPC statuses; the others happened to the client.
"""

from __future__ import annotations

from http import HTTPStatus

OK = 0
TIMED_OUT = 1
DISCONNECTED = 2
MALFORMED = 3
RESET = 4
FIRST_STATUS = 100  # from here on the server has answered
GRPC = 1000

OWN = {
    OK: "ok",
    TIMED_OUT: "no answer in time",
    DISCONNECTED: "connection lost or refused",
    MALFORMED: "answer is not well-formed",
    RESET: "call reset by the server",
}
GRPC_NAMES = (  # in the order of their numbers
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


def outcome_text(outcome: int) -> str:
    """`HTTP 503 Service Unavailable`, `gRPC UNAVAILABLE`, `no answer in time`."""
    if outcome in OWN:
        return OWN[outcome]
    if outcome >= GRPC:
        number = outcome - GRPC
        return f"gRPC {GRPC_NAMES[number] if number < len(GRPC_NAMES) else number}"
    try:
        return f"HTTP {outcome} {HTTPStatus(outcome).phrase}"
    except ValueError:
        return f"HTTP {outcome}"
