"""Sequences that share batches answer as if each had run by itself, whatever fails, restarts or is swapped between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from compiler.spec import TensorSpec
from service.engine.layout import number_of
from service.engine.messages import Infer
from service.engine.sequenced import SequencedModel, program_of
from service.engine.served import Pending
from service.errors import Code
from service.repository.scheduling import Sequencing, State
from service.runtime.device import Device
from service.runtime.stateful import StatefulRunner
from service.tensors import SequencePoint
from tests.fakes import FakeBatchCounter, entry
from tests.service.engine.summing import Answers, Bench, Gru, Strategy, total, totals

STRATEGIES = pytest.mark.parametrize("strategy", ["oldest", "direct"])


@STRATEGIES
def test_each_sequence_has_its_own_sum(strategy: Strategy) -> None:
    bench = totals(strategy)
    numbers = [
        bench.send(identity, [step, 10.0 * identity], start=step == 0, end=step == 3)
        for step in range(4)
        for identity in (1, 2, 3)
    ]
    bench.finish()
    got = [bench.output(number) for number in numbers]
    assert got == [[sum(range(step + 1)), 10.0 * who * (step + 1)] for step in range(4) for who in (1, 2, 3)]
    assert {batch[0] for batch in bench.counter.batches} == {3}, "they shared batches"


@STRATEGIES
def test_the_model_is_told_of_start_end_ready_and_the_number(strategy: Strategy) -> None:
    bench = totals(strategy)
    numbers = [bench.send(7, [0, 0], start=True), bench.send(7, [0, 0]), bench.send(7, [0, 0], end=True)]
    text = bench.send("a", [0, 0], start=True)
    bench.finish()
    told = [bench.output(number, 1, np.float64) for number in numbers]
    assert told == [[1, 0, 1, 7], [0, 0, 1, 7], [0, 1, 1, 7]]
    signed = np.array([number_of("a")], np.uint64).astype(np.int64)
    assert bench.output(text, 1, np.float64) == [1, 0, 1, float(signed[0])]


@STRATEGIES
@pytest.mark.parametrize("instances", [1, 2])
def test_a_gru_answers_interleaved_sequences_as_if_each_ran_alone(strategy: Strategy, instances: int) -> None:
    model = Gru().eval()
    bench = Bench(lambda inputs: model(*inputs), TensorSpec("h", "FP32", (-1, 5)), strategy, instances=instances)
    generator = torch.Generator().manual_seed(1)
    sequences = {who: torch.randn(6 + who, 2, generator=generator) for who in range(12)}
    numbers: dict[tuple[int, int], int] = {}
    bench.start()
    for step in range(20):
        for who, rows in sequences.items():
            if step < len(rows):
                flags = {"start": step == 0, "end": step + 1 == len(rows)}
                numbers[who, step] = bench.send(who + 1, rows[step].tolist(), **flags)
    for number in numbers.values():
        bench.connection.wait_for(number)
    bench.model.close()
    with torch.inference_mode():
        for who, rows in sequences.items():
            h = torch.zeros(1, 5)
            for step, row in enumerate(rows):
                expected, h = model(row[None], h)
                got = torch.tensor([bench.output(numbers[who, step])])
                torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@STRATEGIES
def test_a_sequence_begins_anew_where_it_is_started_again(strategy: Strategy) -> None:
    bench = totals(strategy)
    bench.send(1, [1, 1], start=True)
    bench.send(2, [5, 5], start=True)
    again = [bench.send(1, [2, 2], start=True), bench.send(1, [3, 3], end=True), bench.send(1, [4, 4], start=True)]
    other = bench.send(2, [6, 6])
    bench.finish()
    assert [bench.output(number)[0] for number in (*again, other)] == [2, 5, 4, 11]


@STRATEGIES
def test_a_request_that_fails_leaves_the_state_as_it_was(strategy: Strategy) -> None:
    bench = totals(strategy)
    nan = float("nan")
    for who in (1, 2):
        bench.send(who, [1, 1], start=True)
    failed, fine = bench.send(1, [nan, 0]), bench.send(2, [2, 2])
    after = bench.send(1, [3, 3])
    not_begun, behind = bench.send(3, [nan, 0], start=True), bench.send(3, [1, 1])
    bench.finish()
    assert [bench.output(number)[0] for number in (fine, after)] == [3, 4]
    assert [bench.failure(number).code for number in (failed, not_begun)] == [Code.FAILED] * 2
    assert "sequence 3 did not begin" in bench.failure(behind).message


def test_direct_keeps_the_state_of_rows_without_a_request() -> None:
    bench = totals("direct")
    for who in (1, 2, 3):
        bench.send(who, [who, 0], start=True)
    middle = bench.send(2, [10, 0])
    bench.send(2, [10, 0])
    last = [bench.send(who, [0, 0]) for who in (1, 3)]
    bench.finish()
    assert [bench.output(number)[0] for number in (middle, *last)] == [12, 1, 3]


def test_sequences_wait_for_room_and_begin_when_another_ends() -> None:
    bench = totals("oldest", max_sequences=1)
    bench.send(1, [1, 0], start=True)
    waits = bench.send(2, [2, 0], start=True)
    last = bench.send(1, [1, 0])
    bench.start()
    bench.connection.wait_for(last)
    assert waits not in bench.connection.answers
    end = bench.send(1, [1, 0], end=True)
    bench.connection.wait_for(waits)
    bench.model.close()
    assert [bench.output(end)[0], bench.output(waits)[0]] == [3, 2]


def test_a_new_artifact_goes_on_with_the_state() -> None:
    bench = totals("oldest")
    bench.start()
    bench.connection.wait_for(bench.send(1, [1, 0], start=True))
    doubled = lambda inputs: tuple(2 * each for each in total(inputs))  # noqa: E731
    bench.model.replace_runners(bench.runners(doubled))
    after = bench.send(1, [2, 0])
    bench.model.close()
    assert bench.output(after)[0] == 6


@pytest.mark.parametrize(
    ("identity", "values", "start", "reason"),
    [
        (None, [1, 1], False, "model 'double' has state: send the parameter sequence_id with each request"),
        (9, [1, 1], False, "sequence 9 of model 'double' is not known: start it with sequence_start"),
        (9, [1, 1, 2, 2], True, "a request of a sequence has one row, this one has 2"),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(identity: Any, values: Any, start: bool, reason: str) -> None:
    bench = totals("oldest")
    assert reason in bench.failure(bench.send(identity, values, start=start)).message


def test_a_cancelled_request_is_not_run_and_those_behind_it_are() -> None:
    bench = totals("oldest")
    bench.send(1, [1, 0], start=True)
    cancelled, last = bench.send(1, [10, 0]), bench.send(1, [2, 0])
    bench.model.cancel(bench.connection, cancelled)
    bench.finish()
    assert cancelled not in bench.connection.answers
    assert bench.output(last)[0] == 3


def test_while_it_closes_what_has_begun_is_answered_and_the_backlog_refused() -> None:
    bench = totals("oldest", max_sequences=1)
    first, second = bench.send(1, [1, 0], start=True), bench.send(2, [1, 0], start=True)
    bench.finish()
    assert bench.output(first)[0] == 1
    assert bench.failure(second).code == Code.UNAVAILABLE
    assert bench.failure(bench.send(1, [1, 0])).code == Code.UNAVAILABLE


@STRATEGIES
@pytest.mark.parametrize("datatype", ["BOOL", "INT8", "INT64", "FP16", "BF16", "UINT16", "FP64"])
def test_state_of_any_datatype_is_kept_as_it_is(strategy: Strategy, datatype: str) -> None:
    seen: list[torch.Tensor] = []

    def keep(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x, state = inputs
        seen.append(state.clone())
        return x, (x[:, :, None] + torch.zeros(1, 1, 3)).to(state.dtype)

    bench = Bench(keep, TensorSpec("s", datatype, (-1, 2, 3)), strategy)
    for flags in ({"start": True}, {}):
        for who in (1, 2, 3):
            bench.send(who, [who, 1], **flags)
    bench.finish()
    rows = torch.tensor([[who, 1] for who in (1, 2, 3)])[:, :, None].expand(3, 2, 3)
    assert not seen[0].any()
    assert torch.equal(seen[1][:3].double(), rows.to(seen[1].dtype).double())


def test_a_model_without_a_batch_keeps_its_state_too() -> None:
    inputs = (TensorSpec("x", "FP32", (2,)), TensorSpec("kept", "FP32", (2,)))
    outputs = (TensorSpec("y", "FP32", (2,)), TensorSpec("after", "FP32", (2,)))
    described = entry(
        inputs=inputs[:1],
        outputs=outputs[:1],
        max_batch_size=0,
        buckets=(),
        sequencing=Sequencing("direct", state=(State("kept", "after"),)),
    )
    device = Device("cpu", threads=1)
    program = program_of(described, inputs, outputs, device)
    runner = StatefulRunner(lambda given: (given[0] + given[1],) * 2, device, program.signature, program.states)
    assert runner.warm_up([(2,), (2,)]) == ""
    connection, data = Answers(), np.array([3, 4], np.float32).tobytes()
    model = SequencedModel(described, program, [runner], FakeBatchCounter())
    for number in range(3):
        message = Infer(number, "double", "1", 1, ((2,),), (8,), sequence=SequencePoint("a", number == 0))
        model.submit(Pending(message, [memoryview(data)], connection), now=0.0)
    model.start(on_broken=pytest.fail)
    model.close()
    assert [np.frombuffer(blobs[0], np.float32).tolist() for _, blobs in connection.answers.values()] == [
        [3, 4],
        [6, 8],
        [9, 12],
    ]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
