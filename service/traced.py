"""What an engine tells of the way of a traced request: when a batch began, who shared it, what ran within.

Values only; they travel in `Result` where the request's `Infer` brought a mark. `observe/spans.py` draws spans of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

MARK_BYTES = 24  # trace id (16) and span id (8) of a traced request
MOST_TOGETHER = 64  # marks of a batch that are told: each costs every traced request of the batch a link
MOST_STEPS = 64  # of one request: a generation may call its model thousands of times


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One part of a request: a model that was asked, or a Python file, which has no version. `phases` as in Result."""

    name: str
    version: str
    began_ns: int  # CLOCK_MONOTONIC
    ended_ns: int
    phases: tuple[int, ...] = ()
    batch: int = 0
    bucket: int = 0
    ran: Ran | None = None


class Ran(msgspec.Struct, frozen=True, array_like=True):
    """`began_ns` is CLOCK_MONOTONIC when the batch was taken from the queue; 0: there was no batch of its own."""

    began_ns: int = 0
    together: tuple[bytes, ...] = ()  # the marks of the traced requests of the batch
    steps: tuple[Step, ...] = ()


def ran_together(marks: Iterable[bytes], taken: float) -> Ran | None:
    """Of a batch taken at `taken`, whose requests have these marks, b"" being none."""
    together = tuple([mark for mark in marks if mark])
    return Ran(int(taken * 1e9), together[:MOST_TOGETHER]) if together else None


def shifted(ran: Ran, by_ns: int) -> Ran:
    """The same by another clock, which shows so much more."""
    steps = [
        msgspec.structs.replace(
            step,
            began_ns=step.began_ns + by_ns,
            ended_ns=step.ended_ns + by_ns,
            ran=shifted(step.ran, by_ns) if step.ran is not None else None,
        )
        for step in ran.steps
    ]
    return Ran(ran.began_ns + by_ns if ran.began_ns else 0, ran.together, tuple(steps))


def pack_mark(trace_id: int, span_id: int) -> bytes:
    """A mark."""
    return trace_id.to_bytes(16) + span_id.to_bytes(8)


def unpack_mark(mark: bytes) -> tuple[int, int]:
    """Its trace id and its span id."""
    return int.from_bytes(mark[:16]), int.from_bytes(mark[16:])
