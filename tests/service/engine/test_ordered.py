"""Answers of a model with `preserve_ordering` leave in the order of its requests."""

from __future__ import annotations

from typing import Any

import pytest

from service.engine.messages import Failure, Infer, Result
from service.engine.ordered import OrderedModel
from service.engine.served import Connection, Pending
from service.errors import Code
from tests.fakes import FakeConnection, entry


class Inside:
    """Keeps what it is asked; the test answers."""

    def __init__(self) -> None:
        self.entry = entry()
        self.asked: dict[int, Pending] = {}
        self.cancelled: list[int] = []

    def start(self, on_broken: Any) -> None:
        on_broken("started")

    def submit(self, pending: Pending, now: float) -> None:
        self.asked[pending.root] = pending

    def cancel(self, connection: Connection, request_id: int) -> None:
        self.cancelled.append(request_id)

    def forget(self, connection: Connection) -> None:
        pytest.fail("it is no connection's")

    def close(self) -> None:
        self.asked.clear()

    def answer(self, root: int) -> None:
        pending = self.asked[root]
        result = Result(pending.message.id, ((1, 3),), (12,), (0, 0, 0, 0, 0), 1, 1)
        pending.connection.send([(result, [memoryview(bytes(12))])])

    def fail(self, root: int) -> None:
        pending = self.asked[root]
        pending.connection.send([(Failure(pending.message.id, Code.FAILED, "no"), ())])


@pytest.fixture
def inside() -> Inside:
    return Inside()


@pytest.fixture
def ordered(inside: Inside) -> OrderedModel:
    return OrderedModel(inside)


def submit(ordered: OrderedModel, connection: Connection, *identities: int) -> None:
    for identity in identities:
        ordered.submit(Pending(Infer(identity, "double", "1", 1, ((1, 3),), (12,)), [], connection), 0.0)


def test_answers_and_failures_wait_for_those_before_them(ordered: OrderedModel, inside: Inside) -> None:
    connection = FakeConnection()
    submit(ordered, connection, 11, 12, 13)
    inside.answer(13)
    inside.fail(12)
    assert connection.answers == {}
    inside.answer(11)
    assert list(connection.answers) == [11, 12, 13]
    assert isinstance(connection.answers[12][0], Failure)


def test_what_a_client_left_holds_nobody_up(ordered: OrderedModel, inside: Inside) -> None:
    staying, leaving = FakeConnection(), FakeConnection()
    submit(ordered, leaving, 1)
    submit(ordered, staying, 2, 3)
    submit(ordered, leaving, 4)
    submit(ordered, staying, 5)
    for identity in (3, 5):
        inside.answer(identity)
    ordered.cancel(staying, 2)
    ordered.cancel(staying, 99)
    assert staying.answers == {}
    ordered.forget(leaving)
    assert list(staying.answers) == [3, 5]
    assert inside.cancelled == [2, 1, 4]
    inside.answer(1)
    assert leaving.answers == {}
    assert "0 under way" in repr(ordered)


def test_the_rest_is_its_models(ordered: OrderedModel, inside: Inside) -> None:
    told: list[str] = []
    ordered.start(told.append)
    submit(ordered, FakeConnection(), 1)
    ordered.close()
    assert (told, inside.asked, ordered.entry) == (["started"], {}, inside.entry)
