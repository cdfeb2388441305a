"""What clients see of a model's inputs and outputs, where Python steps stand between them and the model.

Pure. `describe.py` asks, with what the model itself takes and gives.
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from compiler.spec import TensorSpec
from service.repository.catalog import Entry


def with_steps(entry: Entry) -> Entry:
    """`entry`, which describes the model itself, as it is seen through its steps.

    Where each tensor that is left begins with -1, a request is a batch as the model's is; else it is one thing, of
    which the steps may make a batch.
    """
    steps = entry.steps
    if steps is None:
        return entry
    inputs, outputs = entry.inputs, entry.outputs
    if steps.generate is not None:
        inputs, outputs = steps.generate.inputs, steps.generate.outputs
    else:
        inputs, outputs = steps.preprocess or inputs, steps.postprocess or outputs
    is_batch = steps.generate is None and all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    changes: dict[str, Any] = {} if is_batch else {"max_batch_size": 0, "buckets": ()}
    return structs.replace(
        entry,
        inputs=inputs,
        outputs=outputs,
        images=tuple(image for image in entry.images if _spec(entry.inputs, image.input) in inputs),
        defaults={name: value for name, value in entry.defaults.items() if _spec(entry.inputs, name) in inputs},
        labels={name: labels for name, labels in entry.labels.items() if _spec(entry.outputs, name) in outputs},
        steps=structs.replace(steps, model_inputs=entry.inputs, model_outputs=entry.outputs),
        **changes,
    )


def _spec(specs: tuple[TensorSpec, ...], name: str) -> TensorSpec | None:
    return next((spec for spec in specs if spec.name == name), None)
