"""What is wrong in the `sequence` of a model.yaml, beside the rest of the file, before any artifact is there.

Pure. `schema.py` asks; `stateful.py` has the rules, which hold for the artifact too.
"""

from __future__ import annotations

from collections.abc import Iterator

from compiler.spec import TensorSpec
from service.repository.schema_scheduling import SequencePart, freeze_sequencing
from service.repository.schema_tensors import TensorPart
from service.repository.stateful import find_faults
from service.yaml_file import Location


def find_sequence_flaws(
    part: SequencePart | None,
    inputs: tuple[TensorPart, ...] | None,
    outputs: tuple[TensorPart, ...] | None,
    max_batch_size: int | None,
) -> Iterator[tuple[Location, str]]:
    """In sentences, with their places."""
    sequencing = freeze_sequencing(part)
    if sequencing is None:
        return
    for sentence in find_faults(sequencing, _specs(inputs), _specs(outputs), max_batch_size):
        yield ("sequence",), sentence


def _specs(parts: tuple[TensorPart, ...] | None) -> tuple[TensorSpec, ...] | None:
    return None if parts is None else tuple(TensorSpec(part.name, part.datatype, part.shape) for part in parts)
