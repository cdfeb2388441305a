"""uvicorn's HTTP protocol with one timer for a connection, where that has one for each answer.

`protocol.py` builds on it, and says when the connection is between two requests.
"""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PatientProtocol(HttpToolsProtocol):
    """Closes connections on which nothing has come for `timeout_keep_alive` seconds."""

    _is_between = True  # requests: what comes next is a head
    _idle_since = 0.0

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
