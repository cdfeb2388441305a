"""Checks custom resources against the models that their operators' definitions give. Not a test: it runs beside them.

    build/tools/bin/python tests/deploy/custom_resources.py rendered.yaml

Prints what is wrong, a line each; knows KEDA and the prometheus-operator. Other kinds are passed over.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as operator
from pydantic import BaseModel, ValidationError

MODELS: dict[tuple[str, str], type[BaseModel]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
    ("monitoring.coreos.com/v1", "PodMonitor"): operator.PodMonitor,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): operator.ServiceMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): operator.PrometheusRule,
}


def find_faults(document: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one resource."""
    kind = document["apiVersion"], document["kind"]
    if kind not in MODELS:
        return
    try:
        understood = MODELS[kind].model_validate(document)
    except ValidationError as error:
        yield from (f"{kind[1]}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        return
    kept = understood.model_dump(mode="json", by_alias=True, exclude_none=True)
    yield from (f"{kind[1]}: unknown key {path}" for path in _lost(document, kept))


def _lost(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """The keys of `given` that the model let fall."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key not in kept:
                yield f"{path}.{key}"
            else:
                yield from _lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=False)):
            yield from _lost(one, other, f"{path}[{index}]")


def main() -> None:
    """Check every document of the files named."""
    faults, seen = [], 0
    for name in sys.argv[1:]:
        with Path(name).open() as file:
            for document in yaml.safe_load_all(file):
                seen += (document["apiVersion"], document["kind"]) in MODELS
                faults += find_faults(document)
    print("\n".join([f"{seen} checked", *faults]))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
