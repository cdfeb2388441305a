"""The way of a request through an ensemble: what can run when, what is let go of, what came of it, how long it took."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import pytest

from compiler.spec import TensorSpec
from service.engine.pipeline import Call, Flow, Phases, Plan, arrange
from service.errors import InvalidInput
from service.repository.scheduling import Ensemble, EnsembleStep
from service.tensors import Tensor
from tests.fakes import entry

VIEW = memoryview(b"\0" * 12)
DIAMOND = (
    EnsembleStep("split", {"x": "in"}, {"a": "left", "b": "right"}),
    EnsembleStep("heavy", {"x": "left"}, {"y": "one"}),
    EnsembleStep("light", {"x": "right", "z": "in"}, {"y": "two"}),
    EnsembleStep("join", {"p": "one", "q": "two"}, {"y": "out"}),
)


def spec(name: str) -> TensorSpec:
    return TensorSpec(name, "FP32", (-1, 3))


def begin(steps: Sequence[EnsembleStep], outputs: Sequence[str]) -> tuple[Flow, list[Call]]:
    described = entry(inputs=(spec("in"),), outputs=tuple(map(spec, outputs)), ensemble=Ensemble(tuple(steps)))
    flow = Flow(Plan(described))
    return flow, flow.begin(((1, 3),), (VIEW,))


def arrive(flow: Flow, call: Call, phases: Phases = (1, 1, 1, 1, 1), *more: str) -> list[Call]:
    names = (*call.step.outputs, *more)
    return flow.arrived(call, [Tensor(name, "FP32", (1, 3), VIEW) for name in names], phases)


def models(calls: Sequence[Call]) -> list[str]:
    return [call.step.model for call in calls]


def test_a_step_runs_as_soon_as_its_tensors_are_there_and_branches_side_by_side() -> None:
    flow, (split,) = begin(DIAMOND, ["out"])
    heavy, light = arrive(flow, split)
    assert models([split, heavy, light]) == ["split", "heavy", "light"]
    assert [tensor.name for tensor in light.tensors] == ["x", "z"], "as the model itself names them"
    assert arrive(flow, light) == []
    (join,) = arrive(flow, heavy)
    assert not flow.is_done
    assert arrive(flow, join) == []
    assert flow.is_done
    assert [tensor.name for tensor in flow.outputs()] == ["out"]


def test_the_phases_are_those_of_the_longest_way() -> None:
    flow, (split,) = begin(DIAMOND, ["out"])
    heavy, light = arrive(flow, split, (1, 0, 0, 10, 0))
    arrive(flow, light, (0, 0, 0, 5, 0))
    (join,) = arrive(flow, heavy, (2, 0, 0, 100, 0))
    assert join.phases == (3, 0, 0, 110, 0)


def test_a_tensor_is_let_go_of_when_its_last_step_has_it_and_outputs_stay() -> None:
    flow, (split,) = begin(DIAMOND, ["out", "left"])
    assert set(flow._there) == {"in"}, "another step will take it"
    heavy, light = arrive(flow, split, (1, 1, 1, 1, 1), "unasked")
    assert set(flow._there) == {"left"}, "it is an output"
    arrive(flow, light)
    (join,) = arrive(flow, heavy)
    arrive(flow, join)
    assert [tensor.name for tensor in flow.outputs()] == ["out", "left"]


def test_tensors_pass_as_they_are() -> None:
    flow, (split,) = begin(DIAMOND, ["out"])
    assert split.tensors[0].data is VIEW
    heavy, _ = arrive(flow, split)
    assert heavy.tensors[0].data is VIEW


def tensor(name: str, shape: tuple[int, ...], datatype: str = "FP32") -> Tensor:
    return Tensor(name, datatype, shape, memoryview(bytes(4 * math.prod(shape))))


def test_tensors_are_given_in_the_order_of_the_model_that_takes_them() -> None:
    takes = entry(inputs=(spec("p"), spec("q")))
    ordered, rows = arrange([tensor("q", (1, 3)), tensor("p", (1, 3))], takes)
    assert ([each.name for each in ordered], rows) == (["p", "q"], 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([tensor("x", (1, 4))], "input 'x': expected FP32 [-1,3]"),
        ([tensor("x", (1, 3), "INT32")], "input 'x': expected FP32 [-1,3]"),
        ([tensor("x", (513, 3))], "batch of 513 rows is larger than max_request_rows 512"),
        ([tensor("x", (0, 3))], "the batch is empty"),
        ([tensor("z", (1, 3))], "has no input 'z'"),
    ],
)
def test_what_does_not_fit_the_next_model_is_said_as_at_the_door(given: list[Tensor], expected: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        arrange(given, entry())
    assert expected in str(caught.value)


def test_what_no_step_gives_is_filled_in() -> None:
    takes = entry(inputs=(spec("x"), spec("mask")), defaults={"mask": 1.5})
    ordered, rows = arrange([tensor("x", (2, 3))], takes)
    assert ([each.name for each in ordered], ordered[1].shape, rows) == (["x", "mask"], (2, 3), 2)
    assert bytes(ordered[1].data) == struct.pack("<6f", *[1.5] * 6)
