"""Puts Python steps around what serves a model, where its entry declares them: starts their processes, connects them.

Knows no batches. `opening.py` calls it last, when the model itself is warm.
"""

from __future__ import annotations

from collections.abc import Iterable

from compiler.spec import TensorSpec
from service.engine.generating import GeneratingModel
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


def _datatypes(specs: Iterable[TensorSpec]) -> dict[str, str]:
    return {spec.name: spec.datatype for spec in specs}
