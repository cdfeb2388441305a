"""From the parent's order to what serves it: decides of what kind that is, opens the artifact and warms it up.

The one place that knows every kind of `served.Served`. Knows no sockets; `worker.py` calls it on the loader's thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from compiler import backends
from compiler.manifest import Candidate, Manifest, read_manifest
from compiler.padding import resize
from compiler.spec import TensorSpec
from service.engine.aside import stand_back
from service.engine.blackbox import BlackBox
from service.engine.ensemble import InnerCounter, ServedEnsemble
from service.engine.generating import GeneratingModel
from service.engine.holdings import Holdings
from service.engine.messages import Load
from service.engine.models import ServedModel
from service.engine.ordered import OrderedModel
from service.engine.overlapped import OverlappedModel
from service.engine.sequenced import Program, SequencedModel, program_of
from service.engine.served import BatchCounter, Lookup, Served
from service.engine.stepped import SteppedModel
from service.engine.surround import inside_of, surround
from service.engine.warming import run_warm_up
from service.repository.catalog import Entry
from service.repository.model_config import Batching
from service.runtime.device import Device
from service.runtime.runner import Runner
from service.runtime.stateful import StatefulRunner

log = logging.getLogger("torchere.engine")

T = TypeVar("T")

SLOWER_THAN_IN_RACE = 100  # so much slower than it was timed is no load of the machine any more


@dataclass(frozen=True, slots=True)
class Facilities:
    """What an engine lends to what it serves. `holdings` tell, whenever they are asked, what is loaded at that time."""

    device: Device
    counter: Callable[[str, str], BatchCounter]  # of a version, by name and number
    inner: InnerCounter
    holdings: Holdings
    box: BlackBox
    batch_timeout_s: float  # of models that say nothing; 0: a batch takes as long as it takes

    @property
    def lookup(self) -> Lookup:
        """The highest version of a model and its newest contract, for those who call models by name."""
        return self.holdings.lookup


def open_served(order: Load, facilities: Facilities) -> Served:
    """What serves this version, warmed up but not started. Raises whatever the artifact raises."""
    entry = order.entry
    counter = facilities.counter(entry.name, entry.version)
    if entry.ensemble is not None:
        return ServedEnsemble(entry, facilities.holdings.find, counter, facilities.inner)
    if entry.sequencing is not None:
        return surround(entry, _open_sequenced(inside_of(order), facilities, counter))
    inside, runners, chosen = _beside_others(facilities, lambda: _open_artifact(order, facilities))
    kind = OverlappedModel if facilities.device.is_cuda else ServedModel
    model = kind(inside, runners, facilities.device, counter, facilities.box)
    model.plan_by(chosen.milliseconds, chosen.padded)
    return surround(entry, OrderedModel(model) if inside.batching.preserve_ordering else model)


def renew(served: Served, order: Load, facilities: Facilities) -> None:
    """Put a new artifact in place of the one before, under the same contract. Where that fails, nothing changes."""
    match served:
        case ServedEnsemble():
            pass  # other steps are another contract
        case ServedModel():
            _, runners, chosen = _beside_others(facilities, lambda: _open_artifact(order, facilities))
            served.replace_runners(runners)
            served.plan_by(chosen.milliseconds, chosen.padded)
        case SequencedModel():
            program = served.program
            served.replace_runners(_beside_others(facilities, lambda: _open_stateful(order, program)))
        case OrderedModel():
            renew(served.inside, order, facilities)
        case SteppedModel() | GeneratingModel():
            renew(served.inside, inside_of(order), facilities)  # other steps are another contract
        case _:
            raise TypeError(f"{served!r} takes no other artifact: load it under a new contract")


def _beside_others(facilities: Facilities, work: Callable[[], T]) -> T:
    """On a processor that serves already, loading and warming up stand back; a GPU does not know of niceness."""
    if facilities.device.is_cuda or not facilities.holdings.all():
        return work()
    return stand_back(work)


def _open_artifact(order: Load, facilities: Facilities) -> tuple[Entry, list[Runner], Candidate]:
    """The entry with the tensors that the artifact itself takes and gives, its instances, warmed up, and its rung.

    That has the times of batches as the race measured them.
    """
    folder = Path(order.folder)
    manifest = read_manifest(folder)
    entry = structs.replace(
        order.entry,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        max_batch_size=manifest.max_batch_size,
        buckets=manifest.buckets,
        batching=_bounded(order.entry, manifest, facilities.batch_timeout_s),
    )
    runners = [_open_instance(entry, folder, manifest, facilities.device) for _ in range(entry.instances)]
    return entry, runners, manifest.chosen


def _open_sequenced(order: Load, facilities: Facilities, counter: BatchCounter) -> SequencedModel:
    manifest = read_manifest(Path(order.folder))
    program = program_of(order.entry, manifest.inputs, manifest.outputs, facilities.device)
    entry = structs.replace(order.entry, batching=_bounded(order.entry, manifest, facilities.batch_timeout_s))
    runners = _beside_others(facilities, lambda: _open_stateful(order, program))
    return SequencedModel(entry, program, runners, counter, facilities.box)


def _bounded(entry: Entry, manifest: Manifest, default_s: float) -> Batching:
    """With the longest that a batch may take: as the model says, else the default, unless the race says it is slow."""
    if entry.batching.batch_timeout_s or not default_s:
        return entry.batching
    chosen = manifest.chosen
    times = [each.milliseconds for each in chosen.padded] or chosen.milliseconds.values()
    slowest_s = max(times, default=0.0) / 1e3
    return structs.replace(entry.batching, batch_timeout_s=max(default_s, SLOWER_THAN_IN_RACE * slowest_s))


def _open_stateful(order: Load, program: Program) -> list[StatefulRunner]:
    """An instance of this artifact for each of the model's, all on the state that `program` holds."""
    folder = Path(order.folder)
    manifest = read_manifest(folder)
    entry = structs.replace(order.entry, inputs=manifest.inputs, outputs=manifest.outputs)
    runners = []
    for _ in range(entry.instances):
        model = backends.load(folder, manifest, program.device.name)
        runner = StatefulRunner(model, program.device, program.signature, program.states, manifest.chosen.graphs)
        _warm_up(runner, entry)
        runners.append(runner)
    return runners


def _open_instance(entry: Entry, folder: Path, manifest: Manifest, device: Device) -> Runner:
    model = backends.load(folder, manifest, device.name)
    runner = Runner(model, device, entry.inputs, entry.outputs, manifest.chosen.graphs)
    _warm_up(runner, entry)
    run_warm_up(folder, manifest, runner)
    return runner


def _warm_up(runner: Runner | StatefulRunner, entry: Entry) -> None:
    """At every batch size, and at every size that is padded to, before it may be asked; the largest first."""
    for bucket, specs in served_specs(entry):
        why_plain = runner.warm_up(example_shapes(entry, specs, bucket), bucket)
        if why_plain:
            log.info("model %s runs batches of %d without a CUDA graph: %s", entry.name, bucket, why_plain)


def served_specs(entry: Entry) -> list[tuple[int, tuple[TensorSpec, ...]]]:
    """The batch sizes that are served, each with the inputs whose examples have every size that they are padded to."""
    buckets, pad = sorted(entry.buckets or (1,), reverse=True), entry.batching.pad
    if pad is None:
        return [(bucket, entry.inputs) for bucket in buckets]
    found = [
        (bucket * math.prod(sizes), bucket, resize(pad, entry.inputs, dict(zip(pad.dims, sizes, strict=True))))
        for bucket in buckets
        for sizes in reversed(pad.sizes)
    ]
    return [(bucket, specs) for _, bucket, specs in sorted(found, key=lambda each: each[0], reverse=True)]


def example_shapes(entry: Entry, specs: tuple[TensorSpec, ...], rows: int) -> list[tuple[int, ...]]:
    """A shape for each input with `rows` rows; dimensions that vary take the example's size, else 1."""
    shapes = []
    for spec in specs:
        example = tuple(max(size, 1) for size in spec.example_shape or spec.shape)
        shapes.append((rows, *example[1:]) if entry.max_batch_size else example)
    return shapes
