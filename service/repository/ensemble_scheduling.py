"""An ensemble in the words of Triton's model configuration, both ways.

Pure. `control.py` answers with it, `overrides.py` reads it where a load call brings it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import InvalidInput
from service.repository.scheduling import Ensemble

PLATFORM = "ensemble"
NEWEST = -1  # as a version: whichever is served by default
OF_PROGRAMS = ("instance_group", "dynamic_batching", "sequence_batching", "parameters")  # one way to schedule at most
KEYS = ("model_name", "model_version", "input_map", "output_map")


def as_ensemble(config: Mapping[str, Any], ensemble: Ensemble) -> dict[str, Any]:
    """The configuration of a model with these steps, made of what it has in common with every model."""
    kept = {key: value for key, value in config.items() if key not in OF_PROGRAMS}
    steps = [
        {
            "model_name": step.model,
            "model_version": int(step.version or NEWEST),
            "input_map": step.inputs,
            "output_map": step.outputs,
        }
        for step in ensemble.steps
    ]
    return {**kept, "platform": PLATFORM, "backend": "", "ensemble_scheduling": {"step": steps}}


def read_ensemble(value: Any) -> dict[str, Any]:
    """Keys of model.yaml for `ensemble_scheduling`. Raises InvalidInput."""
    steps = value.get("step") if isinstance(value, dict) else None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps) or len(value) > 1:
        raise InvalidInput("config: ensemble_scheduling must be an object with a list of steps, `step`, and no other")
    return {"ensemble": {"steps": [_read_step(step) for step in steps]}}


def _read_step(step: dict[str, Any]) -> dict[str, Any]:
    unknown = next((key for key, setting in step.items() if key not in KEYS and setting), "")
    if unknown:
        raise InvalidInput(f"config: '{unknown[:80]}' of a step is not supported: leave it out")
    version = step.get("model_version", NEWEST)
    read = {"model": step.get("model_name"), "inputs": step.get("input_map"), "outputs": step.get("output_map")}
    return read if str(version) == str(NEWEST) else {**read, "version": _version(version)}


def _version(version: Any) -> Any:
    """Protobuf's JSON has numbers of 64 bits as text; what is no number, model.yaml's own rules refuse."""
    is_text = isinstance(version, str) and version.isdigit() and len(version) < 20
    return int(version) if is_text else version
