"""An event loop that looks for what comes instead of sleeping, for a while after a request came or was answered.

Only where one request is under way, or none: with more there is work to do meanwhile, and what comes is better taken
together. A callback that arms itself again lets the loop look without waiting; all else goes on in between. Knows no
requests. `busy_poll.py` decides for how long, `engine/client.py` says what left and what came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from service.busy_poll import Vigil


class LookingLoop:
    """Of the loop that runs where it is made. `asked` and `answered` are called in its thread."""

    def __init__(self, limit_us: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._for_answers, self._for_requests = Vigil(1000 * limit_us), Vigil(1000 * limit_us)
        self._call_soon = asyncio.get_running_loop().call_soon
        self._until = 0
        self._is_armed = False
        self.turns = 0  # that the loop has made for this alone, or beside what it had to do

    def __repr__(self) -> str:
        return f"<LookingLoop {self._for_requests!r}, {self._for_answers!r}>"

    def asked(self, outstanding: int) -> None:
        """A request has left for an engine, which has now so many of ours."""
        now = self._clock()
        self._for_requests.end(now)
        if outstanding == 1:
            self._look(self._for_answers.begin(now))
        else:
            self._for_answers.drop()
            self._until = 0

    def answered(self, outstanding: int) -> None:
        """An answer has come; so many are still under way."""
        now = self._clock()
        self._for_answers.end(now)
        if not outstanding:
            self._look(self._for_requests.begin(now))

    def _look(self, until: int) -> None:
        self._until = until
        if until and not self._is_armed:
            self._is_armed = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self.turns += 1
        if self._clock() < self._until:
            self._call_soon(self._turn)
        else:
            self._is_armed = False
