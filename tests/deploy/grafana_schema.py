"""Reads dashboards as Grafana's own schema has them. Not a test: it runs where the tools are.

    build/tools/policy/bin/python tests/deploy/grafana_schema.py deploy/grafana/dashboards/*.json

Prints what the schema does not keep, what is not of its types, and units that Grafana does not have, a line each.
"""

from __future__ import annotations

import enum
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

# Of annotations the schema knows only what all sources share; these are Prometheus' own.
OF_PROMETHEUS = ("step", "titleFormat", "textFormat")
TYPES = {float: int | float, int: int, str: str, bool: bool}
UNITS = {value for name, value in vars(units).items() if not name.startswith("_") and isinstance(value, str)}


def lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """What the schema let fall or changed."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from lost(value, kept[key], f"{path}.{key}")
            elif not (path.startswith(".annotations.list") and key in OF_PROMETHEUS):
                yield f"{path}.{key}: unknown"
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for index, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{path}[{index}]")
    elif given != kept:
        yield f"{path}: {given!r} became {kept!r}"


def mistyped(value: Any, hint: Any, path: str) -> Iterator[str]:
    """Values that are not of the schema's type: above all words that are none of those it lists."""
    origin, words = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(value, "to_json"):
        hints = typing.get_type_hints(type(value), vars(sys.modules[type(value).__module__]))
        for name, inner in hints.items():
            yield from mistyped(getattr(value, name), inner, f"{path}.{name}")
    elif origin is typing.Union or origin is types.UnionType:
        faults = [list(mistyped(value, each, path)) for each in words if each is not type(None)]
        if value is not None and all(faults):
            yield from faults[0]
    elif origin is list and isinstance(value, list):
        for index, each in enumerate(value):
            yield from mistyped(each, words[0], f"{path}[{index}]")
    elif origin is dict and isinstance(value, dict):
        for key, each in value.items():
            yield from mistyped(each, words[1], f"{path}.{key}")
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in [each.value for each in hint]:
            yield f"{path}: {value!r} is none of {', '.join(str(each.value) for each in hint)}"
    elif (hint is float and isinstance(value, bool | str)) or (
        hint in (int, str, bool) and not isinstance(value, hint)
    ):
        yield f"{path}: {value!r} is no {hint.__name__}"


def named_units(value: Any, path: str = "") -> Iterator[str]:
    """Units that Grafana does not have."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key == "unit" and each not in UNITS:
                yield f"{path}.unit: unknown unit {each!r}"
            yield from named_units(each, f"{path}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from named_units(each, f"{path}[{index}]")


def main() -> None:
    """Check every file named."""
    register_default_plugins()
    faults = []
    for name in sys.argv[1:]:
        given = json.loads(Path(name).read_text())
        read = Dashboard.from_json(given)
        kept = json.loads(json.dumps(read, cls=JSONEncoder))
        found = (*lost(given, kept), *mistyped(read, Dashboard, ""), *named_units(given))
        faults += [f"{Path(name).name}: {fault}" for fault in found]
    print("\n".join(faults))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
