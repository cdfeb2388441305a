"""The requests that the protocol class answers itself, in place of uvicorn's own cycles.

Values with a little behaviour: what came of a request so far. `protocol.py` makes one for each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from service.engine.messages import Result
from service.errors import ServiceError
from service.rest.familiar import Form
from service.rest.routes import Route
from service.template import Sent
from service.tensors import Buffer


class _NobodyWaits:
    """In place of the event that uvicorn's cycles have."""

    def set(self) -> None:
        """Nobody waits for it."""


NOBODY_WAITS = _NobodyWaits()


class LaneCycle:
    """One request on the lane, with the fields that uvicorn's protocol reads of its own request cycle."""

    message_event = NOBODY_WAITS

    __slots__ = (
        *("arrived", "chunks", "disconnected", "headers", "keep_alive", "more_body"),
        *("opening", "place", "query", "response_complete", "route", "size", "task"),
    )

    def __init__(self, route: Route, query: bytes, headers: dict[bytes, bytes], keep_alive: bool) -> None:
        self.route = route
        self.query = query
        self.headers = headers
        self.keep_alive = keep_alive
        self.chunks: list[Buffer] = []
        self.size = 0
        self.place: memoryview | None = None  # of the body, in place of chunks
        self.opening = b""  # what came before it, where that can be remembered
        self.task: asyncio.Task[None] | Sent | None = None
        self.arrived = time.monotonic()
        self.more_body = True
        self.response_complete = False
        self.disconnected = False

    def take_place(self) -> memoryview:
        """Where the body is; this lets go of it, so that it is free when it has been read."""
        place, self.place = self.place, None
        assert place is not None, "it was received there"
        return place

    def take_body(self) -> Buffer:
        """The same wherever it is."""
        if self.place is not None:
            return self.take_place()
        chunks, self.chunks = self.chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def abandon(self) -> None:
        """Nobody waits for the answer: what still waits in a queue need not run, what has come of a body is let go."""
        self.place = None
        if self.task is not None:
            self.task.cancel()

    def gather(self) -> None:
        """Let the pieces of the body be one."""
        first, *others = self.chunks
        whole = first if isinstance(first, bytearray) else bytearray(first)
        for piece in others:
            whole += piece
        self.chunks = [whole]


class Writer(Protocol):
    """The connection, as a cycle needs it."""

    def write_familiar(self, cycle: FamiliarCycle, start: bytes, tensors: Sequence[memoryview]) -> None: ...
    def refuse_familiar(self, cycle: FamiliarCycle, error: ServiceError) -> None: ...


class FamiliarCycle(LaneCycle):
    """One whose like came before: it gets its answer from the engine's connection, without a task."""

    __slots__ = ("_writer", "form")

    def __init__(self, writer: Writer, form: Form) -> None:
        super().__init__(form.head.route, b"", form.head.headers, keep_alive=True)
        self.more_body = False
        self._writer = writer
        self.form = form

    def unfamiliar(self) -> LaneCycle:
        """The same request as one that goes the usual way; all of it has come."""
        cycle = LaneCycle(self.route, self.query, self.headers, self.keep_alive)
        cycle.arrived = self.arrived
        cycle.chunks = [self.opening, self.take_place()]
        return cycle

    def answered(self, result: Result, outputs: list[memoryview]) -> None:
        self._writer.write_familiar(self, *self.form.answer(result, outputs))

    def refused(self, error: ServiceError) -> None:
        self._writer.refuse_familiar(self, error)
