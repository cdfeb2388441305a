"""What was refused a moment ago: its like is refused too, without asking an engine again.

Pure. A queue that is full, or too long for a deadline, is so for longer than it takes to ask: under ten times too many
requests, most of what a refusal costs would be the question. `template.py` keeps one of these with all requests of a
kind, which have the same priority and rows.
"""

from __future__ import annotations

from service.errors import QueueFull, ServiceError

MOST_S = 0.005  # later an engine is asked again: there may be others, and what waits may have left
SHARE = 0.5  # of what an engine has yet to do: so long it cannot be idle, whatever its prediction was off by


class Refused:
    """A refusal by an engine at `now`, of a request that had to be answered by `deadline`."""

    __slots__ = ("_deadline", "_retry_after_s", "_sentence", "_until")

    def __init__(self, error: ServiceError, deadline: float | None, now: float) -> None:
        self._sentence = str(error)
        self._retry_after_s = error.retry_after_s
        # Only an instance's own is a prediction; where there is none, how long the queue is remains unknown.
        spare = SHARE * float(vars(error).get("retry_after_s", 0.0))
        holds_s = min(MOST_S, spare) if deadline is None or not spare else MOST_S
        self._until = now + holds_s
        self._deadline = deadline + spare if deadline is not None else None

    def covers(self, deadline: float | None, now: float) -> bool:
        """Whether a request like that one would be refused at `now` too.

        Where a deadline was what it was refused for, one that is later by more than it was missed by is another matter.
        """
        if now >= self._until:
            return False
        return self._deadline is None or (deadline is not None and deadline <= self._deadline)

    def again(self) -> QueueFull:
        """The same refusal, for another request."""
        error = QueueFull(self._sentence)
        if self._retry_after_s is not None:
            error.retry_after_s = self._retry_after_s
        return error
