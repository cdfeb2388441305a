"""A served model whose answers leave in the order in which its requests came, whichever of them are ready first.

Knows no batches: what is inside decides what runs when. `opening.py` puts it around models with `preserve_ordering`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

from msgspec import structs

from service.engine.messages import Failure, Result
from service.engine.served import Connection, Pending, Served
from service.engine.steps.order import Order
from service.repository.catalog import Entry

Answer = tuple[Result | Failure, Sequence[memoryview]]
LINE = "line"  # there is one: all requests of the model


class OrderedModel:
    """It is where the model inside answers; failures too wait for their turn. What a client left is passed over."""

    def __init__(self, inside: Served) -> None:
        self.inside = inside
        self._order: Order[int] = Order()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Pending] = {}
        self._numbered: dict[tuple[int, int], int] = {}
        self._ready: dict[int, Answer] = {}
        self._changing = threading.RLock()  # held while answers leave, so that they do so in order

    def __repr__(self) -> str:
        return f"<OrderedModel of {self.inside!r}, {len(self._asked)} under way>"

    @property
    def entry(self) -> Entry:
        return self.inside.entry

    def start(self, on_broken: Callable[[str], None]) -> None:
        self.inside.start(on_broken)

    def close(self) -> None:
        self.inside.close()

    def submit(self, pending: Pending, now: float) -> None:
        """Take it under a number of its own, which is its place in the order."""
        with self._changing:
            number = next(self._numbers)
            self._asked[number] = pending
            self._numbered[id(pending.connection), pending.message.id] = number
            self._order.began(LINE, number)
            message = structs.replace(pending.message, id=number)
            self.inside.submit(structs.replace(pending, message=message, connection=self, within=pending.root), now)

    def cancel(self, connection: Connection, request_id: int) -> None:
        """Nobody waits for it any more, those behind it neither."""
        with self._changing:
            number = self._numbered.pop((id(connection), request_id), 0)
            if number:
                self._drop(number)

    def forget(self, connection: Connection) -> None:
        with self._changing:
            for key in [key for key in self._numbered if key[0] == id(connection)]:
                self._drop(self._numbered.pop(key))

    def send(self, answers: Sequence[Answer]) -> None:
        """Answers of the model inside: each leaves when all before it have."""
        with self._changing:
            for message, blobs in answers:
                if message.id in self._asked:
                    self._ready[message.id] = message, blobs
                    self._leave(self._order.ready(LINE, message.id))

    def _drop(self, number: int) -> None:
        del self._asked[number]
        self._ready.pop(number, None)
        self.inside.cancel(self, number)
        self._leave(self._order.left(LINE, number))

    def _leave(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            pending, (message, blobs) = self._asked.pop(number), self._ready.pop(number)
            self._numbered.pop((id(pending.connection), pending.message.id), None)
            pending.connection.send([(structs.replace(message, id=pending.message.id), blobs)])
