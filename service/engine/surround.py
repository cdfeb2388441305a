"""Puts Python steps around what serves a model, where its entry declares them: starts their processes, connects them.

Knows no batches. `opening.py` calls it last, when the model itself is warm.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import structs

from compiler.manifest import read_manifest
from compiler.spec import TensorSpec
from service.engine.generating import GeneratingModel
from service.engine.messages import Load
from service.engine.served import Served
from service.engine.stepped import SteppedModel
from service.engine.steps.messages import GENERATE, POSTPROCESS, PREPROCESS, Open
from service.engine.steps.pool import Pool
from service.repository.catalog import Entry


def surround(entry: Entry, inside: Served) -> Served:
    """`inside` as clients see it. Raises StepsFailed where the files cannot be loaded."""
    steps = entry.steps
    if steps is None:
        return inside
    given, taken = _datatypes(entry.outputs), _datatypes(inside.entry.inputs)
    if steps.generate is not None:
        files = {GENERATE: given}
    else:
        declared = {PREPROCESS: (steps.preprocess, taken), POSTPROCESS: (steps.postprocess, given)}
        files = {file: expected for file, (specs, expected) in declared.items() if specs is not None}
    opening = Open(steps.folder, files, taken)
    waiting = entry.batching.max_queue_size
    pool = Pool(f"model '{entry.name}'", opening, steps.processes, steps.timeout_s, waiting)
    pool.open()
    return (SteppedModel if steps.generate is None else GeneratingModel)(entry, inside, pool)


def inside_of(order: Load) -> Load:
    """The order as the model sees it, within its steps."""
    steps = order.entry.steps
    if steps is None:
        return order
    manifest = read_manifest(Path(order.folder))
    entry = structs.replace(
        order.entry,
        inputs=steps.model_inputs,
        outputs=steps.model_outputs,
        max_batch_size=manifest.max_batch_size,
        buckets=manifest.buckets,
        steps=None,
    )
    return structs.replace(order, entry=entry)


def _datatypes(specs: Iterable[TensorSpec]) -> dict[str, str]:
    return {spec.name: spec.datatype for spec in specs}
