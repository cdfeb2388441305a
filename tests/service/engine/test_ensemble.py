"""An ensemble in an engine: each request is answered once, by its outputs or by the step that failed it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from compiler.spec import TensorSpec
from service.engine.ensemble import ServedEnsemble
from service.engine.holdings import Holdings
from service.engine.messages import Failure, Infer, Result
from service.engine.served import Connection, Pending
from service.errors import Code
from service.repository.model_config import Batching
from service.repository.scheduling import Ensemble, EnsembleStep
from service.traced import Ran
from tests.fakes import FakeBatchCounter, FakeConnection, entry

PHASES = (1, 2, 3, 4, 5)
CHAIN = (
    EnsembleStep("double", {"x": "in"}, {"y": "middle"}),
    EnsembleStep("negate", {"x": "middle"}, {"y": "out"}),
)
FORK = (
    EnsembleStep("double", {"x": "in"}, {"y": "one"}),
    EnsembleStep("negate", {"x": "in"}, {"y": "two"}),
)


class Member:
    """Answers when it is let: `answer()` the oldest request it holds, or at once where `is_eager`."""

    def __init__(self, name: str, factor: float, is_eager: bool = True, **changes: Any) -> None:
        self.entry = entry(name=name, **changes)
        self.factor = factor
        self.is_eager = is_eager
        self.held: list[Pending] = []
        self.seen: list[Infer] = []
        self.cancelled: list[int] = []
        self.failure: tuple[Code, str] | None = None
        self.ran: Ran | None = None
        self.before_answer: Callable[[], None] = lambda: None

    def start(self, on_broken: Callable[[str], None]) -> None: ...

    def submit(self, pending: Pending, now: float) -> None:
        self.seen.append(pending.message)
        self.held.append(pending)
        if self.is_eager:
            self.answer()

    def answer(self) -> None:
        pending = self.held.pop(0)
        message = pending.message
        self.before_answer()
        if self.failure is not None:
            pending.connection.send([(Failure(message.id, *self.failure), ())])
            return
        values = np.frombuffer(pending.tensors[0], np.float32) * np.float32(self.factor)
        blob = memoryview(values.tobytes())
        result = Result(message.id, message.shapes[:1], (len(blob),), PHASES, message.rows, message.rows, ran=self.ran)
        pending.connection.send([(result, [blob])])

    def cancel(self, connection: Connection, request_id: int) -> None:
        self.cancelled.append(request_id)
        self.held = [pending for pending in self.held if pending.message.id != request_id]

    def forget(self, connection: Connection) -> None: ...
    def close(self) -> None: ...


class Inner:
    """Remembers what became of the requests to models: (model, outcome, rows)."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str, int]] = []

    def finished(self, model: str, version: str, outcome: str, seconds: float, rows: int) -> None:
        assert version in ("1", "2")
        assert seconds >= 0
        self.ended.append((model, outcome, rows))


class Bench:
    """An ensemble `both` of `double` and `negate`, with what it talks to."""

    def __init__(self, steps: Sequence[EnsembleStep] = CHAIN, is_eager: bool = True, **changes: Any) -> None:
        self.double, self.negate = Member("double", 2, is_eager), Member("negate", -1, is_eager)
        self.holdings = Holdings()
        self.holdings.put(self.double)
        self.holdings.put(self.negate)
        outputs = [name for step in steps for name in step.outputs.values() if name != "middle"]
        self.entry = entry(
            name="both",
            inputs=(TensorSpec("in", "FP32", (-1, 3)),),
            outputs=tuple(TensorSpec(name, "FP32", (-1, 3)) for name in outputs),
            ensemble=Ensemble(tuple(steps)),
            **changes,
        )
        self.counter, self.connection = FakeBatchCounter(), FakeConnection()
        self.inner = Inner()
        self.served = ServedEnsemble(self.entry, self.holdings.find, self.counter, self.inner)
        self.served.start(on_broken=pytest.fail)

    def ask(self, identity: int, rows: int = 1, **changes: Any) -> None:
        data = np.ones((rows, 3), np.float32).tobytes()
        message = Infer(identity, "both", "1", rows, ((rows, 3),), (len(data),), **changes)
        self.served.submit(Pending(message, [memoryview(data)], self.connection), 0.0)

    def values(self, identity: int) -> list[float]:
        """The first value of each output."""
        answer, blobs = self.connection.answers[identity]
        assert isinstance(answer, Result), answer
        assert answer.sizes == tuple(map(len, blobs))
        return [float(np.frombuffer(blob, np.float32)[0]) for blob in blobs]

    def failure(self, identity: int) -> Failure:
        answer, _ = self.connection.answers[identity]
        assert isinstance(answer, Failure), answer
        return answer


def test_a_request_goes_through_its_models_and_is_answered_once() -> None:
    bench = Bench()
    bench.ask(7, rows=2, deadline=5.0, priority=3)
    assert bench.values(7) == [-2.0]
    result = bench.connection.answers[7][0]
    assert isinstance(result, Result)
    assert (result.shapes, result.phases) == (((2, 3),), (2, 4, 6, 8, 10))
    for member in (bench.double, bench.negate):
        (message,) = member.seen
        assert (message.rows, message.deadline, message.priority) == (2, 5.0, 3)
    assert bench.counter.batches == [(2, 2)]
    assert bench.inner.ended == [("double", "success", 2), ("negate", "success", 2)]


def test_independent_steps_are_under_way_together_and_share_queues_with_other_requests() -> None:
    bench = Bench(FORK, is_eager=False)
    bench.ask(1)
    bench.ask(2)
    assert (len(bench.double.held), len(bench.negate.held)) == (2, 2)
    bench.negate.answer()
    assert bench.connection.answers == {}
    bench.double.answer()
    assert bench.values(1) == [2.0, -1.0]
    bench.double.answer()
    bench.negate.answer()
    assert bench.values(2) == [2.0, -1.0]


def test_the_step_that_fails_is_the_answer_and_the_others_are_called_back() -> None:
    bench = Bench(FORK, is_eager=False)
    bench.double.failure = (Code.DEADLINE, "the request's time ran out")
    bench.ask(1)
    late = bench.negate.held[0]
    bench.double.answer()
    assert bench.failure(1) == Failure(
        1, Code.DEADLINE, "ensemble 'both': its step 'double' failed: the request's time ran out"
    )
    assert bench.negate.cancelled == [late.message.id]
    assert bench.inner.ended == [("double", "timeout", 1), ("negate", "cancelled", 1)]
    bench.negate.held.append(late)
    bench.negate.answer()  # it ran already: nobody wants to know


def test_what_a_model_gives_must_fit_the_next() -> None:
    bench = Bench()
    bench.holdings.put(Member("negate", -1, inputs=(TensorSpec("x", "FP32", (-1, 4)),), contract=2))
    list(bench.holdings.take("negate", "1", keep=2))
    bench.ask(1)
    assert bench.failure(1).code == Code.INVALID
    assert "its step 'negate' failed: input 'x': expected FP32 [-1,4]" in bench.failure(1).message


def test_while_a_model_changes_its_tensors_the_one_before_goes_on() -> None:
    bench = Bench()
    bench.holdings.put(Member("negate", -1, inputs=(TensorSpec("x", "FP32", (-1, 4)),), contract=2))
    bench.ask(1)
    assert bench.values(1) == [-2.0]
    bench.holdings.put(Member("negate", -10, contract=3))
    bench.ask(2)
    assert bench.values(2) == [-20.0], "the newest that fits"
    bench.holdings.put(Member("negate", -100, version="2"))
    bench.ask(3)
    assert bench.values(3) == [-200.0], "the highest version"


def test_a_model_that_goes_just_when_it_is_asked_has_a_successor() -> None:
    bench = Bench()
    bench.negate.failure = (Code.UNAVAILABLE, "model 'negate' is being unloaded: try again")

    def leave() -> None:
        bench.holdings.put(Member("negate", -10, contract=3))
        list(bench.holdings.take("negate", "1", keep=3))

    bench.negate.before_answer = leave
    bench.ask(1)
    assert bench.values(1) == [-20.0]


def test_a_model_that_is_not_there_is_said() -> None:
    bench = Bench()
    list(bench.holdings.take("negate", "1", keep=-1))
    bench.ask(1)
    assert bench.failure(1).code == Code.UNAVAILABLE
    assert "its step 'negate' failed: it is not loaded in this engine" in bench.failure(1).message


def test_a_client_that_leaves_takes_its_steps_along() -> None:
    bench = Bench(FORK, is_eager=False)
    for identity in (1, 2, 3):
        bench.ask(identity)
    bench.served.cancel(bench.connection, 2)
    assert [len(member.held) for member in (bench.double, bench.negate)] == [2, 2]
    bench.served.forget(bench.connection)
    assert [len(member.held) for member in (bench.double, bench.negate)] == [0, 0]
    assert bench.connection.answers == {}
    bench.served.close()


def test_only_so_many_requests_are_under_way() -> None:
    bench = Bench(is_eager=False, batching=Batching(max_queue_size=1))
    bench.ask(1)
    bench.ask(2)
    assert bench.failure(2).code == Code.QUEUE_FULL
    bench.double.answer()
    bench.negate.answer()
    bench.ask(3)
    assert 3 not in bench.connection.answers


def test_closing_waits_for_what_is_under_way_and_refuses_what_comes() -> None:
    bench = Bench(is_eager=False)
    bench.ask(1)
    closing = threading.Thread(target=bench.served.close)
    closing.start()
    while not bench.served._is_closing:
        pass
    bench.ask(2)
    assert "is being unloaded" in bench.failure(2).message
    bench.double.answer()
    assert closing.is_alive()
    bench.negate.answer()
    closing.join(timeout=10)
    assert not closing.is_alive()
    assert bench.values(1) == [-2.0]


def test_ensembles_call_ensembles() -> None:
    bench = Bench()
    bench.holdings.put(bench.served)
    outer = entry(
        name="outer",
        inputs=bench.entry.inputs,
        outputs=(TensorSpec("twice", "FP32", (-1, 3)),),
        ensemble=Ensemble(
            (
                EnsembleStep("both", {"in": "in"}, {"out": "once"}),
                EnsembleStep("both", {"in": "once"}, {"out": "twice"}),
            )
        ),
    )
    bench.served = ServedEnsemble(outer, bench.holdings.find, FakeBatchCounter(), bench.inner)
    bench.ask(1)
    assert bench.values(1) == [4.0]
    bench.double.failure = (Code.FAILED, "model 'double' failed on this input: ValueError: no")
    bench.ask(2)
    assert "ensemble 'outer': its step 'both' failed: ensemble 'both': its step 'double' failed: model 'double'" in (
        bench.failure(2).message
    )
