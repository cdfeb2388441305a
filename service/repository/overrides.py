"""The configuration that a load call may bring, in Triton's words, as keys of model.yaml; what has no meaning here is
refused by name.

Pure. `model_control.py` merges what comes out over the model's own model.yaml, whose rules then hold for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from service.errors import InvalidInput
from service.repository.ensemble_scheduling import PLATFORM, read_ensemble
from service.repository.sequence_batching import read_sequence_batching

MAX_CHARACTERS = 1_000_000
# Said back by clients that edit what model_config answered.
OURS = ("name", "platform", "backend", "parameters", "model_transaction_policy")
EMPTY_MEANS_SOMETHING = ("max_batch_size", "version_policy")
POLICY = {"max_queue_size": "max_queue_size", "default_timeout_microseconds": "timeout_us"}
TIMEOUT_ACTIONS = {"REJECT": "reject", "DELAY": "delay"}


def read_override(model: str, text: str) -> dict[str, Any]:
    """Keys of model.yaml for the JSON of a ModelConfig. Numbers may be text, as protobuf's JSON has them.

    >>> read_override("m", '{"max_batch_size": 16, "instance_group": [{"count": 2}]}')
    {"max_batch_size": 16, "instances": 2}

    Raises InvalidInput for what is no JSON, contradicts the model, or means something that is not supported.
    """
    config = _parse(text)
    _check_name(model, config)
    unknown = next((key for key, value in config.items() if key not in (*OURS, *READERS) and not _is_empty(value)), "")
    if unknown:
        raise InvalidInput(f"config: '{unknown[:80]}' is not supported: leave it out")
    found: dict[str, Any] = {}
    for key, read in READERS.items():
        if key in config and (key in EMPTY_MEANS_SOMETHING or not _is_empty(config[key])):
            found = merge(found, read(config[key], config))
    return found


def merge(values: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `override` in place of those of `values`; mappings key by key, and tensors by their names."""
    merged = dict(values)
    for key, value in override.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(before, value)
        elif key in ("inputs", "outputs") and isinstance(before, list):
            known = {part.get("name"): part for part in before if isinstance(part, dict)}
            merged[key] = [merge(known.get(part.get("name"), {}), part) for part in value]
        else:
            merged[key] = value
    return merged


def _parse(text: str) -> dict[str, Any]:
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(f"config has {len(text)} characters: at most {MAX_CHARACTERS} are read")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("config must be the JSON of a model configuration") from error
    if not isinstance(config, dict):
        raise InvalidInput("config must be a JSON object")
    return config


def _check_name(model: str, config: dict[str, Any]) -> None:
    if config.get("name") not in (None, "", model):
        raise InvalidInput(f"config: name must be '{model}', or left out")
    if config.get("ensemble_scheduling") and config.get("platform") == PLATFORM:
        return
    for key, known in (("platform", "pytorch_torchere"), ("backend", "pytorch")):
        if config.get(key) not in (None, "", known):
            raise InvalidInput(f"config: {key} must be '{known}', or left out")


def _is_empty(value: Any) -> bool:
    """What protobuf writes for fields that say nothing."""
    if isinstance(value, dict):
        return all(_is_empty(each) for each in value.values())
    return value in (None, "", 0, "0", False, [])


def _batch_size(value: Any, config: dict[str, Any]) -> dict[str, Any]:
    return {"max_batch_size": _whole(value, "max_batch_size"), "batching": {"buckets": None}}


def _tensors(ours: str) -> Callable[[Any, dict[str, Any]], dict[str, Any]]:
    def read(value: Any, config: dict[str, Any]) -> dict[str, Any]:
        has_batch = _whole(config.get("max_batch_size", 0), "max_batch_size") > 0
        parts = []
        for part in _list(value, ours):
            if not isinstance(part, dict) or not isinstance(part.get("data_type"), str):
                raise InvalidInput(f"config: every one of the {ours} needs name, data_type and dims")
            if part.get("allow_ragged_batch"):
                raise InvalidInput(
                    f"config: 'allow_ragged_batch' of the {ours} is not supported: leave it out, and see batching.pad, "
                    "by which requests of different sizes share a batch"
                )
            datatype = part["data_type"].removeprefix("TYPE_")
            dims = [_whole(size, "dims", least=-1) for size in _list(part.get("dims", []), "dims")]
            parts.append(
                {
                    "name": part.get("name"),
                    "datatype": "BYTES" if datatype == "STRING" else datatype,
                    "shape": [-1, *dims] if has_batch else dims,
                }
            )
        return {ours: parts}

    return read


def _instances(value: Any, config: dict[str, Any]) -> dict[str, Any]:
    groups = _list(value, "instance_group")
    if not all(isinstance(group, dict) for group in groups):
        raise InvalidInput("config: instance_group must be a list of objects")
    return {"instances": sum(_whole(group.get("count", 1) or 1, "count") for group in groups)}


def _policy(value: Any, config: dict[str, Any]) -> dict[str, Any]:
    match value:
        case {"latest": {"num_versions": count}}:
            policy: Any = {"latest": _whole(count, "num_versions"), "specific": None, "all": False}
        case {"latest": {}}:
            policy = {"latest": 1, "specific": None, "all": False}
        case {"specific": {"versions": [*versions]}}:
            numbers = [_whole(version, "versions") for version in versions]
            policy = {"specific": numbers, "latest": None, "all": False}
        case {"all": {}}:
            policy = "all"
        case _:
            raise InvalidInput(
                "config: version_policy must be latest with num_versions, specific with versions, or all"
            )
    return {"version_policy": policy}


def _batching(value: Any, config: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput("config: dynamic_batching must be an object")
    batching: dict[str, Any] = {}
    for key, setting in value.items():
        if key == "preferred_batch_size":
            batching["buckets"] = _buckets(setting, config)
        elif key == "max_queue_delay_microseconds":
            batching["max_queue_delay_us"] = _whole(setting, key)
        elif key == "preserve_ordering" and isinstance(setting, bool):
            batching["preserve_ordering"] = setting
        elif key == "default_queue_policy" and isinstance(setting, dict):
            batching.update(_queue_policy(setting))
        elif not _is_empty(setting):
            raise InvalidInput(f"config: '{key[:80]}' of dynamic_batching is not supported: leave it out")
    return {"batching": batching}


def _buckets(value: Any, config: dict[str, Any]) -> list[int] | None:
    """The preferred sizes that the largest batch leaves, and it; None: chosen by the server."""
    largest = _whole(config.get("max_batch_size", 0), "max_batch_size")
    sizes = {_whole(size, "preferred_batch_size", least=1) for size in _list(value, "preferred_batch_size")}
    if not sizes or not largest:
        return None
    return sorted({size for size in sizes if size < largest} | {largest})


def _queue_policy(policy: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, setting in policy.items():
        if key in POLICY:
            number = _whole(setting, key)
            if number or key != "max_queue_size":  # 0 leaves the size of the queue open, as our default does
                found[POLICY[key]] = number
        elif key == "timeout_action" and setting in TIMEOUT_ACTIONS:
            found[key] = TIMEOUT_ACTIONS[setting]
        elif not _is_empty(setting):
            raise InvalidInput(f"config: '{key[:80]}' of default_queue_policy is not supported: leave it out")
    return found


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"config: {what} must be a list")
    return value


def _whole(value: Any, what: str, least: int = 0) -> int:
    if isinstance(value, str) and value.removeprefix("-").isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or value < least:
        raise InvalidInput(f"config: {what} must be a whole number, {least} or more")
    return value


def _response_cache(value: Any, config: dict[str, Any]) -> dict[str, Any]:
    match value:
        case {"enable": bool(is_on), **others} if not others:
            return {"response_cache": is_on}
    raise InvalidInput("config: response_cache must be an object with enable, true or false")


# In this order: preferred batch sizes hold beside a new largest one.
READERS: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    "max_batch_size": _batch_size,
    "input": _tensors("inputs"),
    "output": _tensors("outputs"),
    "instance_group": _instances,
    "version_policy": _policy,
    "dynamic_batching": _batching,
    "response_cache": _response_cache,
    "sequence_batching": lambda value, config: read_sequence_batching(value),
    "ensemble_scheduling": lambda value, config: read_ensemble(value),
}
