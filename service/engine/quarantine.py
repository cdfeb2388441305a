"""Requests that ran when another engine died, in this one: one at a time, whichever models they are for.

So a request that ends its process is alone with its guilt. Knows no batch: `models.py` lets nothing run in a batch with
one, `rerun.py` says which they are, `worker.py` brings them here.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import structs

from service.engine.messages import Failure, Result
from service.engine.served import Connection, Pending, Served

Answer = tuple[Result | Failure, Sequence[memoryview]]


class Case:
    """One request, from its coming to its answer: the connection on which it is answered."""

    def __init__(self, served: Served, pending: Pending, quarantine: Quarantine) -> None:
        self.served = served
        self.key = (id(pending.connection), pending.message.id)
        self.connection = pending.connection
        self.pending = structs.replace(pending, connection=self)
        self._quarantine = quarantine

    def __repr__(self) -> str:
        return f"<Case {self.served.entry.name} request {self.pending.message.id}>"

    def send(self, answers: Sequence[Answer]) -> None:
        """Pass the answer on, and let the next one run."""
        self.connection.send(answers)
        if any(isinstance(message, Failure) or message.is_final for message, _ in answers):
            self._quarantine.over(self)


class Quarantine:
    """Any thread may call it; `over` is called by whatever thread answers."""

    def __init__(self) -> None:
        self._waiting: deque[Case] = deque()
        self._now: Case | None = None
        self._changing = threading.Lock()
        self._giving: set[int] = set()  # threads that are in `_go_on`, where what is refused at once is over at once

    def __repr__(self) -> str:
        return f"<Quarantine {self._now!r}, {len(self._waiting)} wait>"

    def submit(self, served: Served, pending: Pending) -> None:
        """Let a request run when those before it are over."""
        with self._changing:
            self._waiting.append(Case(served, pending, self))
        self._go_on()

    def over(self, case: Case) -> None:
        """It was answered, or will not be."""
        with self._changing:
            if self._now is not case:
                return
            self._now = None
        self._go_on()

    def cancel(self, connection: Connection, request_id: int) -> None:
        """The client left. What runs runs to its end, alone as before."""
        self._drop(lambda case: case.key == (id(connection), request_id))

    def forget(self, connection: Connection) -> None:
        """The frontend has gone."""
        self._drop(lambda case: case.connection is connection)

    def _drop(self, is_meant: Callable[[Case], bool]) -> None:
        with self._changing:
            self._waiting = deque(case for case in self._waiting if not is_meant(case))

    def _go_on(self) -> None:
        me = threading.get_ident()
        if me in self._giving:
            return  # further up it goes on: were each refused within the one before, a crowd would be too deep
        self._giving.add(me)
        try:
            while (case := self._next()) is not None:
                case.served.submit(case.pending, time.monotonic())
        finally:
            self._giving.discard(me)

    def _next(self) -> Case | None:
        with self._changing:
            if self._now is not None or not self._waiting:
                return None
            self._now = self._waiting.popleft()
            return self._now
