"""What is wrong with the Python steps as they stand in model.yaml.

Pure: knows what is declared, not the files. `schema.py` asks, `steps.py` looks for the files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from service.repository.schema_scheduling import GeneratePart, PostprocessPart, PreprocessPart
from service.repository.schema_tensors import TensorPart
from service.yaml_file import Location

Fault = tuple[Location, str]


def find_misfits(
    before: PreprocessPart | None, after: PostprocessPart | None, generate: GeneratePart | None, *, has_state: bool
) -> Iterator[Fault]:
    """Names that are there twice, and steps that exclude each other."""
    if before is not None:
        yield from _twins(("preprocess", "inputs"), before.inputs)
    if after is not None:
        yield from _twins(("postprocess", "outputs"), after.outputs)
    if generate is None:
        return
    yield from _twins(("generate", "inputs"), generate.inputs)
    yield from _twins(("generate", "outputs"), generate.outputs)
    for name, part in (("preprocess", before), ("postprocess", after)):
        if part is not None:
            yield (name,), f"{name} and generate exclude each other: let generate.py do it"
    if has_state:
        yield ("generate",), "sequence and generate exclude each other: keep the state in generate.py"


def _twins(where: Location, parts: Sequence[TensorPart]) -> Iterator[Fault]:
    names, place = [part.name for part in parts], ".".join(map(str, where))
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (*where, index, "name"), f"{place} has the name '{name}' twice: each needs its own"
