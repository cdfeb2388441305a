"""Requests that may be deadly run one at a time, whatever they are for and whoever asks."""

from typing import Any

from service.engine.messages import Failure, Infer, Result
from service.engine.quarantine import Quarantine
from service.engine.rerun import RAN
from service.engine.served import Pending
from service.errors import Code
from tests.fakes import FakeConnection, entry


class Model:
    """Keeps what it is given until told to answer."""

    def __init__(self, refuses: bool = False) -> None:
        self.entry = entry()
        self.given: list[Pending] = []
        self._refuses = refuses

    def submit(self, pending: Pending, now: float) -> None:
        self.given.append(pending)
        if self._refuses:
            pending.connection.send([(Failure(pending.message.id, Code.UNAVAILABLE, "it is being unloaded"), ())])

    def answer(self) -> None:
        pending = self.given[-1]
        pending.connection.send([(Result(pending.message.id, (), (), (0, 0, 0, 0, 0), 1, 1), ())])


def pending(identity: int, connection: FakeConnection) -> Pending:
    return Pending(Infer(identity, "double", "1", 1, ((1, 3),), (12,), retry=RAN), [], connection)


def running(model: Any) -> list[int]:
    return [each.message.id for each in model.given]


def test_one_at_a_time_in_order_and_over_all_models() -> None:
    one, other, connection, quarantine = Model(), Model(), FakeConnection(), Quarantine()
    for identity, model in ((1, one), (2, other), (3, one)):
        quarantine.submit(model, pending(identity, connection))  # type: ignore[arg-type]
    assert (running(one), running(other)) == ([1], [])
    one.answer()
    assert (running(one), running(other)) == ([1], [2])
    other.answer()
    assert running(one) == [1, 3]
    one.answer()
    assert sorted(connection.answers) == [1, 2, 3]


def test_what_is_refused_at_once_lets_the_next_one_run() -> None:
    model, connection, quarantine = Model(refuses=True), FakeConnection(), Quarantine()
    for identity in range(200):
        quarantine.submit(model, pending(identity, connection))  # type: ignore[arg-type]
    assert len(connection.answers) == 200


def test_a_crowd_that_is_refused_at_once_is_refused_one_after_the_other() -> None:
    """Not each within the one before: Python goes so deep only, and nothing would run any more."""
    first, model, connection, quarantine = Model(), Model(refuses=True), FakeConnection(), Quarantine()
    quarantine.submit(first, pending(5000, connection))  # type: ignore[arg-type]
    for identity in range(2000):
        quarantine.submit(model, pending(identity, connection))  # type: ignore[arg-type]
    first.answer()
    assert len(connection.answers) == 2001


def test_who_left_is_not_run_and_what_runs_ends() -> None:
    model, connection, gone, quarantine = Model(), FakeConnection(), FakeConnection(), Quarantine()
    for identity in (1, 2, 3):
        quarantine.submit(model, pending(identity, connection))  # type: ignore[arg-type]
    quarantine.submit(model, pending(4, gone))  # type: ignore[arg-type]
    quarantine.cancel(connection, 1)
    quarantine.cancel(connection, 2)
    quarantine.forget(gone)
    model.answer()
    assert running(model) == [1, 3]
    model.answer()
    assert running(model) == [1, 3]
