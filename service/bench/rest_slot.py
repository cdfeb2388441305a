"""One HTTP connection that is kept alive: the same bytes written again and again, each answer's framing checked.

On a bare asyncio protocol with llhttp (httptools), which costs some microseconds a request. Of an answer the status
is read and the framing checked; its body is not looked at, since `target.py` has asked once and looked.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

import httptools

from service.bench.messages import Target
from service.bench.outcomes import DISCONNECTED, MALFORMED, OK
from service.bench.slots import RETRY_S, Events

SUCCESS = 200


class RestSlot:
    """A slot over HTTP/1.1. A connection that breaks, or that the server wants closed, is opened anew."""

    def __init__(self, target: Target, events: Events) -> None:
        self.events = events
        self.begun_ns = self.lag_ns = 0
        self.is_open = self.is_busy = False
        self._target = target
        self._payload = target.payload
        self._wire: _Wire | None = None
        self._reopening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._wire = await loop.create_connection(lambda: _Wire(self), self._target.host, self._target.port)
        self.is_open = True

    def send(self) -> None:
        assert self._wire is not None, "only an open slot sends"
        self.is_busy = True
        self._wire.transport.write(self._payload)

    def abort(self, outcome: int) -> None:
        self._drop()
        self._end(outcome)

    async def close(self) -> None:
        if self._reopening:
            self._reopening.cancel()
        self._forget()
        await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn

    def ended(self, wire: _Wire, outcome: int, is_kept: bool) -> None:
        """An answer was read to its end, or something that is none."""
        if wire is not self._wire:
            return  # of a connection given up before
        if not is_kept:
            self._drop()
        if self.is_busy:
            self._end(outcome)

    def _end(self, outcome: int) -> None:
        self.is_busy = False
        self.events.answered(self, outcome)

    def _drop(self) -> None:
        self._forget()
        self._reopening = asyncio.get_running_loop().create_task(self._reopen())

    def _forget(self) -> None:
        wire, self._wire, self.is_open = self._wire, None, False
        if wire is not None:
            wire.transport.abort()

    async def _reopen(self) -> None:
        while not self.is_open:
            with contextlib.suppress(OSError):
                await self.open()
                break
            await asyncio.sleep(RETRY_S)
        self.events.opened(self)


class _Wire(asyncio.Protocol):
    """One TCP connection, and llhttp's callbacks."""

    transport: asyncio.Transport

    def __init__(self, slot: RestSlot) -> None:
        self._slot = slot
        self._complete = 0
        self._is_kept = True
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def on_message_complete(self) -> None:
        self._complete += 1
        self._is_kept = self._parser.should_keep_alive()  # llhttp knows it only here: then it forgets the headers

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._slot.ended(self, MALFORMED, is_kept=False)
            return
        if not self._complete:
            return
        if self._complete > 1 or not self._slot.is_busy:  # more answers than questions
            self._slot.ended(self, MALFORMED, is_kept=False)
            return
        self._complete = 0
        status = self._parser.get_status_code()
        self._slot.ended(self, OK if status == SUCCESS else status, self._is_kept)

    def connection_lost(self, error: Exception | None) -> None:
        self._slot.ended(self, DISCONNECTED, is_kept=False)
