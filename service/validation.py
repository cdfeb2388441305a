"""Turns what pydantic finds wrong into sentences: the place, what was expected, what came, the remedy.

Knows nothing of files or flags: the caller says where a location is. `settings.py` and `repository/config.py` ask.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from service.nearest import nearest

if typing.TYPE_CHECKING:
    from service.yaml_file import Location

PLAIN_WORDS = {
    "Input should": "must",
    "String should": "must",
    "Tuple should": "must",
    "Dictionary should": "must",
    "a valid tuple": "a list",
    "a valid string": "text",
    "a valid boolean": "true or false",
}
MAX_SHOWN = 80  # characters of a wrong value; enough to find it by


def find_faults(error: ValidationError, model: type[BaseModel]) -> list[tuple[Location, str]]:
    """Every fault as (location, sentence).

    >>> find_faults(error, ModelFile)
    [(("max_batchsize",), "unknown key 'max_batchsize': did you mean 'max_batch_size'?")]
    """
    errors = error.errors(include_url=False)
    inner = {each["loc"][:depth] for each in errors for depth in range(len(each["loc"]))}
    # A list with a wrong item is called too short as well: the item says enough.
    return [(each["loc"], _sentence(dict(each), model)) for each in errors if each["loc"] not in inner]


def place(location: Location) -> str:
    """A location as people write it: `inputs[0].shape`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _sentence(fault: dict[str, Any], model: type[BaseModel]) -> str:
    location: Location = fault["loc"]
    match fault["type"]:
        case "extra_forbidden":
            inside = f" in {place(location[:-1])}" if location[:-1] else ""
            return (
                f"unknown key '{location[-1]}'{inside}: {nearest(str(location[-1]), _known_keys(model, location[:-1]))}"
            )
        case "missing":
            return f"{place(location)} is missing: add it"
        case "value_error":
            return f"{place(location)} {fault['ctx']['error']}"
        case _:
            shown = repr(fault["input"])
            shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."
            return f"{place(location)} {_expected(fault['msg'])}, not {shown}"


def _expected(message: str) -> str:
    """pydantic's words in ours: "Input should be a valid integer, ..." -> "must be a valid integer"."""
    for clause in (", unable", " or instance of", " after validation"):
        message = message.partition(clause)[0]
    for theirs, ours in PLAIN_WORDS.items():
        message = message.replace(theirs, ours)
    return message


def _known_keys(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the part of `model` at `location` has."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = next(_parts(field.annotation), model)
    return list(model.model_fields)


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside an annotation such as `tuple[Input, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _parts(inner)
