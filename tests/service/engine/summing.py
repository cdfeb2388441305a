"""A served model with state that a test drives: a sum for each sequence, or a GRU. Not a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch

from compiler.spec import TensorSpec
from service.engine.messages import Failure, Infer, Result
from service.engine.sequenced import SequencedModel, program_of
from service.engine.served import Pending
from service.repository.scheduling import Controls, Sequencing, State
from service.runtime.device import Device
from service.runtime.stateful import StatefulRunner
from service.tensors import SequencePoint
from tests.fakes import FakeBatchCounter, FakeConnection, entry

Strategy = Literal["oldest", "direct"]


FLAGS = {"start": "FP32", "end": "BOOL", "ready": "INT32", "id": "INT64"}


def total(inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The sum of a sequence, and what the model was told; a NaN fails. Writes into its own inputs, as a model may."""
    x, kept, *controls = inputs
    if bool(torch.isnan(x).any()):
        raise ValueError("a value is NaN")
    kept.add_(x)
    told = torch.cat([control.to(torch.float64) for control in controls], dim=1)
    return kept, kept, told


class Gru(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = torch.nn.GRUCell(2, 5)
        self.read = torch.nn.Linear(5, 3)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        after = self.cell(x, h)
        return self.read(after), after


class Answers(FakeConnection):
    """Also waits for one."""

    def __init__(self) -> None:
        super().__init__()
        self._arrived = threading.Condition()

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None:
        with self._arrived:
            super().send(answers)
            self._arrived.notify_all()

    def wait_for(self, number: int) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: number in self.answers, timeout=30)


class Bench:
    """A served model with state, and what it talks to."""

    def __init__(
        self,
        model: Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]],
        state: TensorSpec,
        strategy: Strategy,
        *,
        controls: bool = False,
        instances: int = 1,
        **sequencing: Any,
    ) -> None:
        named = Controls(*FLAGS) if controls else Controls()
        flags = tuple(TensorSpec(name, datatype, (-1, 1)) for name, datatype in FLAGS.items() if controls)
        after = TensorSpec("after", state.datatype, state.shape)
        y = TensorSpec("y", "FP32", (-1, -1))
        inputs = (TensorSpec("x", "FP32", (-1, 2)), state, *flags)
        outputs = (y, after, *([TensorSpec("told", "FP64", (-1, 4))] if controls else []))
        self.entry = entry(
            inputs=inputs[:1],
            outputs=tuple(spec for spec in outputs if spec is not after),
            instances=instances,
            sequencing=Sequencing(strategy, state=(State(state.name, "after"),), controls=named, **sequencing),
        )
        self.device = Device("cpu", threads=1)
        self.program = program_of(self.entry, inputs, outputs, self.device)
        self.connection = Answers()
        self.counter = FakeBatchCounter()
        self.model = SequencedModel(self.entry, self.program, self.runners(model), self.counter)
        self.number = 0

    def runners(self, model: Any) -> list[StatefulRunner]:
        found = []
        for _ in range(self.entry.instances):
            runner = StatefulRunner(model, self.device, self.program.signature, self.program.states)
            found.append(runner)
        return found

    def send(
        self, identity: int | str | None, values: Sequence[float], *, start: bool = False, end: bool = False
    ) -> int:
        """The number of a request with one row for each two values."""
        self.number += 1
        array = np.array(values, np.float32).reshape(-1, 2)
        point = None if identity is None else SequencePoint(identity, start, end)
        message = Infer(self.number, "double", "1", len(array), (array.shape,), (array.nbytes,), sequence=point)
        self.model.submit(Pending(message, [memoryview(array.tobytes())], self.connection), now=0.0)
        return self.number

    def start(self) -> None:
        self.model.start(on_broken=pytest.fail)

    def finish(self) -> None:
        """Run all that waits, and end."""
        self.start()
        self.model.close()

    def output(self, number: int, index: int = 0, dtype: Any = np.float32) -> list[float]:
        message, blobs = self.connection.answers[number]
        assert isinstance(message, Result), message
        assert message.sizes[index] == len(blobs[index])
        values: list[float] = np.frombuffer(blobs[index], dtype).tolist()
        return values

    def failure(self, number: int) -> Failure:
        message, _ = self.connection.answers[number]
        assert isinstance(message, Failure)
        return message


def totals(strategy: Strategy, **more: Any) -> Bench:
    return Bench(total, TensorSpec("kept", "FP32", (-1, 2)), strategy, controls=True, **more)
