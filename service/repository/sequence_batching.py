"""The state of a model in the words of Triton's model configuration, both ways.

Pure. `control.py` answers with it, `overrides.py` reads it where a load call brings it.
"""

from __future__ import annotations

from typing import Any

from compiler.spec import TensorSpec
from service.errors import InvalidInput
from service.repository.catalog import Entry
from service.repository.scheduling import Sequencing
from service.repository.stateful import named_controls

KINDS = {
    "start": "CONTROL_SEQUENCE_START",
    "end": "CONTROL_SEQUENCE_END",
    "ready": "CONTROL_SEQUENCE_READY",
    "id": "CONTROL_SEQUENCE_CORRID",
}
OURS = {kind: ours for ours, kind in KINDS.items()}
FALSE_TRUE = {"BOOL": ("bool_false_true", [False, True]), "FP32": ("fp32_false_true", [0.0, 1.0])}
STRATEGIES = {"direct": {}, "oldest": {"max_candidate_sequences": "max_sequences"}}
IN_BATCHING = {"max_queue_delay_microseconds": "max_queue_delay_us"}
KEYS = ("max_sequence_idle_microseconds", "control_input", "state", *STRATEGIES)


def as_sequence_batching(entry: Entry, sequencing: Sequencing) -> dict[str, Any]:
    """What a model's configuration says in place of `dynamic_batching`."""
    hidden = {spec.name: spec for spec in entry.hidden}
    delay = {"max_queue_delay_microseconds": entry.batching.max_queue_delay_us}
    strategy: dict[str, Any] = (
        delay
        if sequencing.strategy == "direct"
        else {
            "max_candidate_sequences": sequencing.max_sequences,
            "preferred_batch_size": list(entry.buckets),
            **delay,
        }
    )
    return {
        "max_sequence_idle_microseconds": round(sequencing.idle_timeout_s * 1e6),
        sequencing.strategy: strategy,
        "control_input": [
            {"name": name, "control": [_control(kind, hidden[name])]} for kind, name in named_controls(sequencing)
        ],
        "state": [
            {
                "input_name": state.input,
                "output_name": state.output,
                "data_type": f"TYPE_{hidden[state.input].datatype}",
                "dims": list(hidden[state.input].shape[1 if entry.max_batch_size else 0 :]),
            }
            for state in sequencing.state
        ],
    }


def _control(kind: str, spec: TensorSpec) -> dict[str, Any]:
    if kind == "id":
        return {"kind": KINDS[kind], "data_type": f"TYPE_{spec.datatype}"}
    field, values = FALSE_TRUE.get(spec.datatype, ("int32_false_true", [0, 1]))
    return {"kind": KINDS[kind], field: values}


def read_sequence_batching(value: Any) -> dict[str, Any]:
    """Keys of model.yaml for `sequence_batching`. Raises InvalidInput."""
    if not isinstance(value, dict):
        raise InvalidInput("config: sequence_batching must be an object")
    unknown = next((key for key, setting in value.items() if key not in KEYS and setting), "")
    if unknown:
        raise InvalidInput(f"config: '{unknown[:80]}' of sequence_batching is not supported: leave it out")
    sequence: dict[str, Any] = {}
    found: dict[str, Any] = {"sequence": sequence}
    idle = value.get("max_sequence_idle_microseconds")
    if idle:
        sequence["idle_timeout_s"] = _number(idle, "max_sequence_idle_microseconds") / 1e6
    for strategy in (name for name in STRATEGIES if name in value):
        sequence["strategy"] = strategy
        _read_strategy(value[strategy], strategy, sequence, found)
    if value.get("state"):
        sequence["state"] = [_read_state(state) for state in _objects(value["state"], "state")]
    if value.get("control_input"):
        controls = [_read_control(control) for control in _objects(value["control_input"], "control_input")]
        sequence["controls"] = dict.fromkeys(KINDS) | dict(controls)
    return found


def _read_strategy(value: Any, strategy: str, sequence: dict[str, Any], found: dict[str, Any]) -> None:
    for key, setting in (value if isinstance(value, dict) else {}).items():
        if key in STRATEGIES[strategy]:
            sequence[STRATEGIES[strategy][key]] = _number(setting, key)
        elif key in IN_BATCHING:
            found["batching"] = {IN_BATCHING[key]: _number(setting, key)}
        elif key != "preferred_batch_size" and setting:  # the sizes that run are the model's own
            raise InvalidInput(f"config: '{key[:80]}' of {strategy} is not supported: leave it out")


def _read_state(state: dict[str, Any]) -> dict[str, Any]:
    unknown = next((key for key in state if key not in ("input_name", "output_name", "data_type", "dims")), "")
    if unknown:
        raise InvalidInput(f"config: '{unknown[:80]}' of a state is not supported: leave it out")
    return {"input": state.get("input_name"), "output": state.get("output_name")}


def _read_control(control: dict[str, Any]) -> tuple[str, Any]:
    kinds = [each.get("kind", KINDS["start"]) for each in _objects(control.get("control"), "control")]
    if len(kinds) != 1 or kinds[0] not in OURS:
        raise InvalidInput(f"config: a control_input needs one control whose kind is one of {', '.join(OURS)}")
    return OURS[kinds[0]], control.get("name")


def _objects(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InvalidInput(f"config: {what} must be a list of objects")
    return value


def _number(value: Any, what: str) -> int:
    """Protobuf's JSON has numbers of 64 bits as text."""
    if isinstance(value, str) and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or value < 0:
        raise InvalidInput(f"config: {what} must be a whole number, 0 or more")
    return value
