"""Reads dashboards as Grafana's own schema has them. Not a test: it runs where the tools are.

    build/tools/policy/bin/python tests/deploy/grafana_schema.py deploy/grafana/dashboards/*.json

Prints what the schema does not keep, and units that Grafana does not have, a line each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

# Of annotations the schema knows only what all sources share; these are Prometheus' own.
OF_PROMETHEUS = ("step", "titleFormat", "textFormat")
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
        kept = json.loads(json.dumps(Dashboard.from_json(given), cls=JSONEncoder))
        faults += [f"{Path(name).name}: {fault}" for fault in (*lost(given, kept), *named_units(given))]
    print("\n".join(faults))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
