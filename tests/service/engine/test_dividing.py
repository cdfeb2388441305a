"""A request of more rows than a batch holds is answered once, as if it had been one batch."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.engine.dividing import Divided
from service.engine.messages import Failure, Infer, Result
from service.engine.served import Pending
from service.errors import Code
from tests.fakes import FakeConnection
from tests.service.engine.test_models import Bench, held

X = np.arange(20, dtype=np.float32).reshape(10, 2)


def divided(connection: FakeConnection, over: list[int]) -> Divided:
    message = Infer(7, "m", "1", 10, ((10, 2), (10,)), (80, 10))
    tensors = [memoryview(X.tobytes()), memoryview(bytes(range(10)))]
    return Divided(Pending(message, tensors, connection), lambda: over.append(1))


def answer(part: Pending, waited: int = 1) -> tuple[Result, list[memoryview]]:
    rows = part.message.rows
    doubled = (2 * np.frombuffer(part.tensors[0], np.float32)).tobytes()
    return Result(part.message.id, ((rows, 2),), (len(doubled),), (waited, 1, 2, 3, 4), rows, 4), [memoryview(doubled)]


@given(st.sets(st.integers(1, 9)), st.randoms(use_true_random=False))
def test_parts_in_any_order_make_the_whole(cuts: set[int], random: object) -> None:
    connection, over = FakeConnection(), list[int]()
    subject = divided(connection, over)
    bounds = [0, *sorted(cuts), 10]
    parts = [subject.part(start, end - start) for start, end in itertools.pairwise(bounds)]
    assert b"".join(part.tensors[1] for part in parts) == bytes(range(10))
    assert all(part.root == 7 for part in parts)
    answers = [answer(part, waited=part.message.id + 5) for part in parts]
    random.shuffle(answers)  # type: ignore[attr-defined]
    for each in answers:
        assert not connection.answers
        subject.send([each])
    result, blobs = connection.answers[7]
    assert isinstance(result, Result)
    assert (result.shapes, result.sizes) == (((10, 2),), (80,))
    np.testing.assert_array_equal(np.frombuffer(blobs[0], np.float32).reshape(10, 2), 2 * X)
    assert result.phases == (5, *(len(parts) * step for step in (1, 2, 3, 4)))
    assert over == [1]


def test_the_first_failure_is_the_answer_and_the_only_one() -> None:
    connection, over = FakeConnection(), list[int]()
    subject = divided(connection, over)
    first, second = subject.part(0, 5), subject.part(5, 5)
    subject.send([(Failure(second.message.id, Code.FAILED, "no"), ())])
    subject.send([answer(first)])
    subject.send([(Failure(0, Code.FAILED, "again"), ())])
    assert [message for message, _ in connection.answers.values()] == [Failure(7, Code.FAILED, "no")]
    assert over == [1]
    assert repr(subject) == "<Divided 0 of 10 rows answered>"


def test_parts_whose_outputs_have_other_sizes_make_no_whole() -> None:
    connection, over = FakeConnection(), list[int]()
    subject = divided(connection, over)
    first, second = subject.part(0, 6), subject.part(6, 4)
    shorter = Result(second.message.id, ((4, 1),), (16,), (1, 1, 1, 1, 1), 4, 4)
    subject.send([answer(first), (shorter, [memoryview(bytes(16))])])
    failure, blobs = connection.answers[7]
    assert isinstance(failure, Failure)
    assert (failure.code, list(blobs), over) == (Code.FAILED, [], [1])
    assert failure.message.endswith(
        "for some rows of this request than for others, as it runs in parts: send at most 6 rows at once"
    )


def test_a_large_request_is_answered_by_the_batches_of_its_parts() -> None:
    bench = Bench()
    bench.submit(1, [[value] * 3 for value in range(20)])
    bench.run(batches=3)
    assert bench.outputs() == {1: [2.0 * value for value in range(20) for _ in range(3)]}
    assert bench.counter.batches == [(8, 8), (8, 8), (4, 4)]
    assert (bench.counter.waited, bench.counter.parts) == (1, 2), "one request that waited, in three batches"


def test_others_share_its_batches_and_only_the_part_at_fault_fails_it() -> None:
    bench = held()
    bench.submit(1, [[1.0] * 3])
    bench.submit(2, [[2.0] * 3] * 8 + [[-1.0] * 3] * 4)
    bench.submit(3, [[3.0] * 3])
    bench.run(batches=1 + 8)
    assert bench.outputs() == {0: [0] * 3, 1: [2] * 3, 3: [6] * 3}
    assert bench.failures()[2].message == "model 'double' failed on this input: ValueError: a value is negative"
    assert not bench.model._waiting


def test_a_large_request_whose_client_left_runs_no_more_parts() -> None:
    bench = Bench()
    bench.submit(1, [[1.0] * 3] * 24)
    bench.gate.entered.acquire()
    bench.model.cancel(bench.connection, 1)
    bench.run(batches=1)
    assert bench.counter.batches == [(8, 8)]
    assert bench.connection.answers == {}


def test_a_large_request_whose_time_runs_out_is_told_once() -> None:
    bench = held()
    bench.submit(1, [[1.0] * 3] * 24, deadline=0.0)
    bench.run(batches=1)
    assert bench.failures()[1].code == Code.DEADLINE
