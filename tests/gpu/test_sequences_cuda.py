"""On a real GPU: the state of sequences stays there, goes straight into CUDA graphs, and is as on the processor."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from compiler.spec import TensorSpec
from service.engine.messages import Infer, Result
from service.engine.sequenced import SequencedModel, program_of
from service.engine.served import Pending
from service.repository.scheduling import Sequencing, State
from service.runtime.device import Device
from service.runtime.stateful import StatefulRunner
from service.tensors import SequencePoint
from tests.fakes import FakeBatchCounter, FakeConnection, entry

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

HIDDEN, STEPS, WHO = 16, 12, (1, 2, 3, 4, 5)
INPUTS = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("h", "FP32", (-1, HIDDEN)))
OUTPUTS = (TensorSpec("y", "FP32", (-1, HIDDEN)), TensorSpec("after", "FP32", (-1, HIDDEN)))
GRAPHED = {"plain": (), "graphs": (1, 2, 4, 8)}


class Cell(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = torch.nn.GRUCell(3, HIDDEN)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        after = self.cell(x, h)
        return 2 * after, after


def alone(rows: torch.Tensor) -> torch.Tensor:
    """What one sequence gives by itself, on the processor."""
    cell, h, outputs = Cell(), torch.zeros(1, HIDDEN), []
    with torch.inference_mode():
        for row in rows:
            y, h = cell(row[None], h)
            outputs.append(y[0])
    return torch.stack(outputs)


@pytest.mark.parametrize("graphs", GRAPHED)
@pytest.mark.parametrize("strategy", ["oldest", "direct"])
def test_interleaved_sequences_are_as_each_alone(strategy: Literal["oldest", "direct"], graphs: str) -> None:
    device = Device("cuda:0", threads=1)
    described = entry(
        inputs=INPUTS[:1], outputs=OUTPUTS[:1], sequencing=Sequencing(strategy, state=(State("h", "after"),))
    )
    program = program_of(described, INPUTS, OUTPUTS, device)
    assert {kept.device.type for kept in program.states.tensors} == {"cuda"}
    cell = Cell().to("cuda:0").eval()
    runner = StatefulRunner(lambda given: cell(*given), device, program.signature, program.states, GRAPHED[graphs])
    with device.stream():
        for bucket in (8, 4, 2, 1):
            why_plain = runner.warm_up([(bucket, 3), (bucket, HIDDEN)], bucket)
            assert bool(why_plain) == (graphs == "plain")
    connection = FakeConnection()
    model = SequencedModel(described, program, [runner], FakeBatchCounter())
    rows = torch.randn(STEPS, len(WHO), 3, generator=torch.Generator().manual_seed(1))
    for step in range(STEPS):
        for index, who in enumerate(WHO):
            data = rows[step, index].numpy().tobytes()
            point = SequencePoint(who, is_start=step == 0, is_end=step == STEPS - 1)
            message = Infer(step * len(WHO) + index, "m", "1", 1, ((1, 3),), (12,), sequence=point)
            model.submit(Pending(message, [memoryview(data)], connection), now=0.0)
    model.start(on_broken=pytest.fail)
    model.close()
    for index in range(len(WHO)):
        got = []
        for step in range(STEPS):
            answer, blobs = connection.answers[step * len(WHO) + index]
            assert isinstance(answer, Result), answer
            got.append(torch.from_numpy(np.frombuffer(blobs[0], np.float32).copy()))
        torch.testing.assert_close(torch.stack(got), alone(rows[:, index]), rtol=1e-4, atol=1e-5)
