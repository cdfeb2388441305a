"""A ModelConfig of a load call as keys of model.yaml: what is read, what says nothing, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import InvalidInput
from service.repository.overrides import merge, read_override


def read(**config: Any) -> dict[str, Any]:
    return read_override("m", json.dumps(config))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"name": "m", "platform": "pytorch_torchere", "backend": "pytorch", "parameters": {"x": 1}}, {}),
        ({"max_batch_size": 16}, {"max_batch_size": 16, "batching": {"buckets": None}}),
        ({"max_batch_size": "0"}, {"max_batch_size": 0, "batching": {"buckets": None}}),
        ({"instance_group": [{"count": 2}, {"count": "1", "kind": "KIND_CPU"}, {}]}, {"instances": 4}),
        ({"version_policy": {"all": {}}}, {"version_policy": "all"}),
        (
            {"version_policy": {"latest": {"num_versions": "2"}}},
            {"version_policy": {"latest": 2, "specific": None, "all": False}},
        ),
        ({"version_policy": {"latest": {}}}, {"version_policy": {"latest": 1, "specific": None, "all": False}}),
        (
            {"version_policy": {"specific": {"versions": ["3", 5]}}},
            {"version_policy": {"specific": [3, 5], "latest": None, "all": False}},
        ),
        (
            {"dynamic_batching": {"max_queue_delay_microseconds": "50", "default_queue_policy": {"max_queue_size": 9}}},
            {"batching": {"max_queue_delay_us": 50, "max_queue_size": 9}},
        ),
        (
            {"dynamic_batching": {"default_queue_policy": {"max_queue_size": 0, "default_timeout_microseconds": 7}}},
            {"batching": {"timeout_us": 7}},
        ),
        (
            {"dynamic_batching": {"preferred_batch_size": ["4", 2, 32]}, "max_batch_size": 8},
            {"max_batch_size": 8, "batching": {"buckets": [2, 4, 8]}},
        ),
        (
            {"max_batch_size": 4, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3", -1]}]},
            {
                "max_batch_size": 4,
                "batching": {"buckets": None},
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, -1]}],
            },
        ),
        (
            {"output": [{"name": "y", "data_type": "TYPE_STRING", "dims": [1]}]},
            {"outputs": [{"name": "y", "datatype": "BYTES", "shape": [1]}]},
        ),
        (
            {
                "platform": "ensemble",
                "ensemble_scheduling": {
                    "step": [
                        {"model_name": "a", "model_version": -1, "input_map": {"x": "t"}, "output_map": {"y": "u"}},
                        {"model_name": "b", "model_version": "2", "input_map": {"x": "u"}, "output_map": {"y": "v"}},
                    ]
                },
            },
            {
                "ensemble": {
                    "steps": [
                        {"model": "a", "inputs": {"x": "t"}, "outputs": {"y": "u"}},
                        {"model": "b", "inputs": {"x": "u"}, "outputs": {"y": "v"}, "version": 2},
                    ]
                }
            },
        ),
        ({"response_cache": {"enable": True}}, {"response_cache": True}),
        (
            {
                "sequence_batching": {
                    "max_sequence_idle_microseconds": "2500000",
                    "oldest": {
                        "max_candidate_sequences": 4,
                        "preferred_batch_size": [4],
                        "max_queue_delay_microseconds": "7",
                    },
                    "control_input": [
                        {"name": "START", "control": [{"int32_false_true": [0, 1]}]},
                        {"name": "ID", "control": [{"kind": "CONTROL_SEQUENCE_CORRID", "data_type": "TYPE_INT64"}]},
                    ],
                    "state": [{"input_name": "h", "output_name": "h_after", "data_type": "TYPE_FP32", "dims": [8]}],
                }
            },
            {
                "sequence": {
                    "idle_timeout_s": 2.5,
                    "strategy": "oldest",
                    "max_sequences": 4,
                    "state": [{"input": "h", "output": "h_after"}],
                    "controls": {"start": "START", "end": None, "ready": None, "id": "ID"},
                },
                "batching": {"max_queue_delay_us": 7},
            },
        ),
        (
            {
                "sequence_batching": {},
                "response_cache": {"enable": False},
                "model_warmup": [],
                "model_transaction_policy": {"decoupled": False},
                "optimization": {"priority": 0},
                "dynamic_batching": {"preserve_ordering": False, "default_queue_policy": {"timeout_action": "REJECT"}},
            },
            {"batching": {"preserve_ordering": False, "timeout_action": "reject"}},
        ),
        (
            {"dynamic_batching": {"preserve_ordering": True, "default_queue_policy": {"timeout_action": "DELAY"}}},
            {"batching": {"preserve_ordering": True, "timeout_action": "delay"}},
        ),
    ],
)
def test_what_has_a_meaning_is_read(config: dict[str, Any], expected: dict[str, Any]) -> None:
    found = read(**config)
    assert {key: value for key, value in found.items() if value != {}} == {
        key: value for key, value in expected.items() if value != {}
    }


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"name": "other"}, "name must be 'm'"),
        ({"backend": "tensorflow"}, "backend must be 'pytorch'"),
        ({"trust": True}, "'trust' is not supported"),
        ({"ensemble_scheduling": {"step": [1]}}, "ensemble_scheduling must be an object with a list of steps"),
        ({"ensemble_scheduling": {"step": [{"model_namespace": "n"}]}}, "'model_namespace' of a step is not supported"),
        ({"response_cache": {"enable": "yes"}}, "response_cache must be an object with enable, true or false"),
        ({"response_cache": True}, "response_cache must be an object with enable, true or false"),
        ({"sequence_batching": {"iterative_sequence": True}}, "'iterative_sequence' of sequence_batching is not"),
        ({"sequence_batching": {"direct": {"minimum_slot_utilization": 0.5}}}, "'minimum_slot_utilization' of direct"),
        ({"sequence_batching": {"state": [{"initial_state": []}]}}, "'initial_state' of a state is not supported"),
        ({"sequence_batching": {"control_input": [{"name": "x"}]}}, "control must be a list of objects"),
        ({"sequence_batching": {"control_input": [{"name": "x", "control": []}]}}, "needs one control whose kind is"),
        ({"sequence_batching": {"max_sequence_idle_microseconds": -1}}, "max_sequence_idle_microseconds must be a wh"),
        ({"sequence_batching": [1]}, "sequence_batching must be an object"),
        ({"max_batch_size": -1}, "max_batch_size must be a whole number, 0 or more"),
        ({"max_batch_size": True}, "max_batch_size must be a whole number"),
        ({"instance_group": {"count": 1}}, "instance_group must be a list"),
        ({"instance_group": [1]}, "instance_group must be a list of objects"),
        ({"version_policy": {"newest": 1}}, "version_policy must be"),
        ({"dynamic_batching": {"priority_levels": 3}}, "'priority_levels' of dynamic_batching is not supported"),
        ({"dynamic_batching": {"default_queue_policy": {"timeout_action": "LATER"}}}, "'timeout_action' of default"),
        ({"input": [{"name": "x"}]}, "every one of the inputs needs name, data_type and dims"),
        (
            {"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1], "allow_ragged_batch": True}]},
            "'allow_ragged_batch' of the inputs is not supported: leave it out, and see batching.pad",
        ),
        ({"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-2]}]}, "dims must be a whole number, -1 or more"),
    ],
)
def test_what_has_none_is_refused_by_name(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        read(**config)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 5000, "1" * 2_000_000])
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="config"):
        read_override("m", text)


def test_tensors_keep_what_only_model_yaml_can_say() -> None:
    file = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3], "range": [0, 1]}], "trust": True}
    override = {"inputs": [{"name": "x", "datatype": "FP16", "shape": [-1, 3]}], "batching": {"timeout_us": 5}}
    assert merge(file, override) == {
        "inputs": [{"name": "x", "datatype": "FP16", "shape": [-1, 3], "range": [0, 1]}],
        "trust": True,
        "batching": {"timeout_us": 5},
    }
