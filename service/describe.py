"""What the compiler says, in the words of those who serve: an entry, its progress, why there is nothing better.

Pure. `loading.py` asks here for what it tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from compiler import Progress
from compiler.errors import LoadFailed
from compiler.manifest import Manifest
from service.errors import without_paths
from service.interface import with_steps
from service.repository.catalog import Entry, State
from service.repository.model_config import ModelConfig
from service.repository.stateful import find_faults, hidden_inputs, visible_inputs, visible_outputs


def choose_startup(config: ModelConfig, default: Literal["wait", "fallback"]) -> Literal["wait", "fallback"]:
    """What a model does until it is compiled; a strict one never serves a fallback."""
    return "wait" if config.strict else config.startup or default


def describe_progress(progress: Progress) -> str:
    """`build inductor fp32`: the stage and the candidate, which change a few times, unlike the message and the time."""
    return f"{progress.stage} {progress.candidate}" if progress.candidate else progress.stage


def describe_shortfall(manifest: Manifest) -> str:
    """Why the race gave nothing better than the model as it is; "" where it gave what was asked for."""
    if not manifest.is_fallback:
        return ""
    lost = [rung for rung in manifest.ladder if rung.outcome not in ("chosen", "slower")]
    return "no candidate passed: " + "; ".join(f"{rung.rung.name} {rung.outcome}: {rung.reason}" for rung in lost)


def find_difference(served: Manifest, winner: Manifest) -> str:
    """Why `winner` must not take the place of `served` while requests wait; "" where it may."""
    for what in ("inputs", "outputs", "max_batch_size", "buckets"):
        before, after = getattr(served, what), getattr(winner, what)
        if before != after:
            return f"its {what} are {after} and not {before}"
    sources = [
        {part: value for part, value in manifest.key_parts.items() if part.startswith("source.")}
        for manifest in (served, winner)
    ]
    return "" if sources[0] == sources[1] else "the model's files have changed meanwhile"


def describe_artifact(config: ModelConfig, version: str, manifest: Manifest, origin: str, seconds: float) -> Entry:
    """The entry of a version while this artifact serves it. Raises LoadFailed where model.yaml does not fit it."""
    described = msgspec.structs.replace(
        _bare_entry(config, version, State.LOADING, "the engine is loading it"),
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        max_batch_size=manifest.max_batch_size,
        buckets=manifest.buckets,
        backend=manifest.backend,
        precision=manifest.precision,
        variant=manifest.variant,
        device=manifest.target.device,
        origin=origin,
        seconds=seconds,
    )
    faults = tuple(_state_faults(described))
    if faults:
        raise LoadFailed(f"its model.yaml: {'; '.join(faults)}")
    return with_steps(_hide_state(described))


def as_clients_see(entry: Entry) -> Entry:
    """The entry with reasons that name files, but not where they lie."""
    reason, progress = without_paths(entry.reason), without_paths(entry.progress)
    if (reason, progress) == (entry.reason, entry.progress):
        return entry
    return msgspec.structs.replace(entry, reason=reason, progress=progress)


def _state_faults(entry: Entry) -> Iterator[str]:
    """Why the server cannot keep the state of this artifact."""
    if entry.sequencing is not None:
        yield from find_faults(entry.sequencing, entry.inputs, entry.outputs, entry.max_batch_size)


def not_loaded(name: str, version: str, reason: str) -> Entry:
    """A version that is there, and that nobody wants to be served."""
    return Entry(name, version, State.UNAVAILABLE, reason, is_awaited=False, is_wanted=False)


def entry_of(config: ModelConfig, version: str, state: State, reason: str) -> Entry:
    """What is known of a version before it is compiled."""
    return with_steps(_hide_state(_bare_entry(config, version, state, reason)))


def _bare_entry(config: ModelConfig, version: str, state: State, reason: str) -> Entry:
    return Entry(
        name=config.name,
        version=version,
        state=state,
        reason=reason,
        description=config.description,
        inputs=config.inputs or (),
        outputs=config.outputs or (),
        max_batch_size=config.max_batch_size or 0,
        labels=config.labels,
        images=config.images,
        batching=config.batching,
        instances=config.instances,
        aliases=tuple(label for label, labelled in config.version_labels.items() if labelled == version),
        response_cache=config.response_cache,
        defaults=config.defaults,
        sequencing=config.sequencing,
        ensemble=config.ensemble,
        steps=config.steps,
    )


def _hide_state(entry: Entry) -> Entry:
    """`entry`, which describes the model itself, as clients of its sequences see it."""
    own = entry.sequencing
    if own is None:
        return entry
    return msgspec.structs.replace(
        entry,
        inputs=visible_inputs(own, entry.inputs),
        outputs=visible_outputs(own, entry.outputs),
        hidden=hidden_inputs(own, entry.inputs),
    )
