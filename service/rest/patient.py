"""uvicorn's HTTP protocol with one timer for a connection, where that has one for each answer, and with an end to the
patience with clients that stop amid a request.

`protocol.py` builds on it, and says when the connection is between two requests; `stalled.py` asks how far it has come.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.rest.receiving import BodyReceiver
from service.rest.stalled import Progress

REQUEST_TIMEOUT = 408
STOPPED = "the request stopped coming before its end (setting stall_timeout_s): the connection is closed"


class PatientProtocol(HttpToolsProtocol):
    """Closes connections on which nothing has come for `timeout_keep_alive` seconds."""

    _is_between = True  # requests: what comes next is a head
    _idle_since = 0.0
    _in_head = False
    _head_bytes = 0  # of the head that is being read
    _piece_count = 0  # of bodies that ASGI reads
    _receiver: BodyReceiver | None = None
    _refusal: tuple[int, str] | None = None

    @property
    def progress(self) -> Progress | None:
        """How far the client has come with what it owes: a request it began, or an answer to read. None: it owes
        nothing, or waits for us."""
        cycle: Any = self.cycle
        if self.flow.write_paused:
            return "reading", self.transport.get_write_buffer_size()
        if cycle is None and self._is_between:
            return "connected", 0
        if self._is_between or self.flow.read_paused:
            return None
        left = self._receiver.left if self._receiver is not None else 0
        return "sending", self._head_bytes, self._piece_count, getattr(cycle, "size", 0), left

    def give_up(self) -> None:
        """It has not come any further for too long."""
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle
        is_in_body = not self._in_head and not self._is_between
        is_answered = is_in_body and (cycle.response_complete or getattr(cycle, "response_started", False))
        if self._is_between or self.flow.write_paused or is_answered:
            self.transport.abort()  # there is nobody to tell, or no place for words
        else:
            self._refusal = (REQUEST_TIMEOUT, STOPPED)
            self.send_400_response("")

    def on_body(self, body: bytes) -> None:
        """As the parent's, and counted."""
        self._piece_count += 1
        super().on_body(body)

    def on_response_complete(self) -> None:
        """As the parent's, with one timer for a connection where that has one for each answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch_idleness(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection where nothing has come for long; where something has, look again."""
        self.timeout_keep_alive_task = None
        if not self._is_between or not self.cycle.response_complete:
            return  # the end of what is under way starts it anew
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._watch_idleness(left)
        elif not self.transport.is_closing():
            self.transport.close()

    def _watch_idleness(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        super().connection_lost(exc)
