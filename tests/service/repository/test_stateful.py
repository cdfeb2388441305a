"""State and controls of a model must fit it; clients see neither, and Triton's configuration tells of both."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compiler.spec import TensorSpec
from service.repository.model_config import Batching
from service.repository.overrides import read_override
from service.repository.scheduling import Controls, Sequencing, State
from service.repository.sequence_batching import as_sequence_batching
from service.repository.stateful import find_faults, hidden_inputs, visible_inputs, visible_outputs
from tests.fakes import entry

INPUTS = (
    TensorSpec("x", "FP32", (-1, 3)),
    TensorSpec("h", "FP16", (-1, 2, 8)),
    TensorSpec("START", "BOOL", (-1,)),
    TensorSpec("READY", "FP32", (-1, 1)),
    TensorSpec("ID", "UINT64", (-1, 1)),
)
OUTPUTS = (TensorSpec("h_after", "FP16", (-1, 2, 8)), TensorSpec("y", "FP32", (-1, 3)))
SEQUENCING = Sequencing("oldest", 16, 1.5, (State("h", "h_after"),), Controls(start="START", ready="READY", id="ID"))


def other(specs: tuple[TensorSpec, ...], name: str, datatype: str, *shape: int) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, datatype, shape) if spec.name == name else spec for spec in specs)


def sequencing(*pairs: tuple[str, str], **controls: str) -> Sequencing:
    return Sequencing(state=tuple(State(*pair) for pair in pairs), controls=Controls(**controls))


def test_clients_see_what_is_left() -> None:
    assert [spec.name for spec in visible_inputs(SEQUENCING, INPUTS)] == ["x"]
    assert [spec.name for spec in visible_outputs(SEQUENCING, OUTPUTS)] == ["y"]
    assert hidden_inputs(SEQUENCING, INPUTS) == INPUTS[1:]


def test_what_fits_has_no_faults() -> None:
    assert not list(find_faults(SEQUENCING, INPUTS, OUTPUTS, 8))
    assert not list(find_faults(SEQUENCING, INPUTS, None, None))
    assert not list(find_faults(SEQUENCING, None, None, None))
    alone = (TensorSpec("x", "FP32", (3,)), TensorSpec("h", "FP16", (2, 1, 8)), TensorSpec("START", "INT32", (1,)))
    after = (TensorSpec("h_after", "FP16", (2, 1, 8)), TensorSpec("y", "FP32", (3,)))
    assert not list(find_faults(sequencing(("h", "h_after"), start="START"), alone, after, 0))


@pytest.mark.parametrize(
    ("named", "inputs", "outputs", "sentence"),
    [
        (
            sequencing(("g", "h_after")),
            INPUTS,
            OUTPUTS,
            "names 'g', which is none of the model's inputs: they",
        ),
        (sequencing(("h", "g")), INPUTS, OUTPUTS, "sequence names 'g', which is none of the model's outputs: they"),
        (sequencing(("h", "h_after"), ready="h"), INPUTS, OUTPUTS, "sequence names the input 'h' twice"),
        (sequencing(("h", "y"), ("x", "y")), INPUTS, OUTPUTS, "sequence names the output 'y' twice"),
        (sequencing(("h", "h_after")), INPUTS[1:2], OUTPUTS, "sequence takes every input of the model"),
        (sequencing(("h", "h_after")), INPUTS, OUTPUTS[:1], "sequence takes every output of the model"),
        (
            sequencing(("h", "h_after")),
            INPUTS,
            other(OUTPUTS, "h_after", "FP32", -1, 2, 8),
            "the state goes out of 'h_after' as FP32, but 'h' takes FP16",
        ),
        (
            sequencing(("h", "h_after")),
            INPUTS,
            other(OUTPUTS, "h_after", "FP16", -1, 8, 2),
            r"goes out of 'h_after' with the shape \[-1, 8, 2\], but 'h' takes \[-1, 2, 8\]: they must agree",
        ),
        (
            sequencing(("h", "h_after")),
            other(INPUTS, "h", "FP16", -1, -1, 8),
            OUTPUTS,
            r"the state 'h' has the shape \[-1, -1, 8\]: all its sizes but the batch must be fixed",
        ),
        (
            sequencing(start="x"),
            INPUTS,
            OUTPUTS,
            r"the control start 'x' has the shape \[-1, 3\]: it is one value a",
        ),
        (sequencing(end="ID"), INPUTS, OUTPUTS, "the control end 'ID' is UINT64: it must be one of BOOL, INT8, INT32"),
        (sequencing(id="READY"), INPUTS, OUTPUTS, "the control id 'READY' is FP32: it must be one of INT32, UINT32"),
    ],
)
def test_what_does_not_fit_is_told(named: Sequencing, inputs: Any, outputs: Any, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError("; ".join(find_faults(named, inputs, outputs, 8)))


def test_tritons_configuration_says_it_and_reads_it_back() -> None:
    described = entry(
        sequencing=SEQUENCING, hidden=hidden_inputs(SEQUENCING, INPUTS), batching=Batching(max_queue_delay_us=5)
    )
    config = as_sequence_batching(described, SEQUENCING)
    assert config == {
        "max_sequence_idle_microseconds": 1_500_000,
        "oldest": {
            "max_candidate_sequences": 16,
            "preferred_batch_size": [1, 2, 4, 8],
            "max_queue_delay_microseconds": 5,
        },
        "control_input": [
            {"name": "START", "control": [{"kind": "CONTROL_SEQUENCE_START", "bool_false_true": [False, True]}]},
            {"name": "READY", "control": [{"kind": "CONTROL_SEQUENCE_READY", "fp32_false_true": [0.0, 1.0]}]},
            {"name": "ID", "control": [{"kind": "CONTROL_SEQUENCE_CORRID", "data_type": "TYPE_UINT64"}]},
        ],
        "state": [{"input_name": "h", "output_name": "h_after", "data_type": "TYPE_FP16", "dims": [2, 8]}],
    }
    assert read_override("m", json.dumps({"sequence_batching": config})) == {
        "sequence": {
            "idle_timeout_s": 1.5,
            "strategy": "oldest",
            "max_sequences": 16,
            "state": [{"input": "h", "output": "h_after"}],
            "controls": {"start": "START", "end": None, "ready": "READY", "id": "ID"},
        },
        "batching": {"max_queue_delay_us": 5},
    }
