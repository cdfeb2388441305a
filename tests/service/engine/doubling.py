"""A model without an artifact, that gives twice what it gets, and a connection on which a test can wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from service.engine.messages import Failure, Result
from service.engine.served import Connection, Pending
from service.traced import Ran
from tests.fakes import entry

TIMEOUT_S = 60.0
Answer = tuple[Result | Failure, list[bytes]]


def until(condition: Callable[[], bool]) -> None:
    """Return as soon as it is so."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "it never was so"
        threading.Event().wait(0.005)


class Replies:
    """Collects answers by request; `of` waits for the last word, `all_of` has every response."""

    def __init__(self) -> None:
        self.answers: dict[int, list[Answer]] = {}
        self._came = threading.Condition()

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None:
        with self._came:
            for message, blobs in answers:
                self.answers.setdefault(message.id, []).append((message, [bytes(blob) for blob in blobs]))
            self._came.notify_all()

    def all_of(self, number: int) -> list[Answer]:
        with self._came:
            assert self._came.wait_for(lambda: self._is_over(number), TIMEOUT_S), f"no answer to {number}"
        return self.answers[number]

    def of(self, number: int) -> Answer:
        (answer,) = self.all_of(number)
        return answer

    def _is_over(self, number: int) -> bool:
        answers = self.answers.get(number)
        return bool(answers) and (isinstance(answers[-1][0], Failure) or answers[-1][0].is_final)


class Doubling:
    """`double` of the fakes. While it is held, requests wait; those that wait together count as one batch."""

    def __init__(self) -> None:
        self.entry = entry()
        self.seen: list[float] = []
        self.batches: list[int] = []
        self.failure = ""
        self.ran: Ran | None = None
        self.waiting: list[Pending] = []
        self._is_held = False
        self._lock = threading.Lock()

    def start(self, on_broken: Callable[[str], None]) -> None: ...

    def close(self) -> None: ...

    def hold(self) -> None:
        self._is_held = True

    def let_go(self) -> None:
        with self._lock:
            self._is_held = False
            waiting, self.waiting = self.waiting, []
        self._answer(waiting)

    def submit(self, pending: Pending, now: float) -> None:
        with self._lock:
            self.seen.append(float(np.frombuffer(pending.tensors[0], np.float32)[0]))
            if self._is_held:
                self.waiting.append(pending)
                return
        self._answer([pending])

    def cancel(self, connection: Connection, request_id: int) -> None:
        with self._lock:
            self.waiting = [
                each for each in self.waiting if each.connection is not connection or each.message.id != request_id
            ]

    def forget(self, connection: Connection) -> None: ...

    def _answer(self, waiting: Sequence[Pending]) -> None:
        self.batches.append(len(waiting))
        for pending in waiting:
            message = pending.message
            if self.failure:
                pending.connection.send([(Failure(message.id, "failed", self.failure), ())])
                continue
            data = (2 * np.frombuffer(pending.tensors[0], np.float32)).tobytes()
            result = Result(message.id, message.shapes, (len(data),), (1, 2, 3, 4, 5), 1, 1, ran=self.ran)
            pending.connection.send([(result, [memoryview(data)])])
