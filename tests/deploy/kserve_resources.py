"""Checks KServe's resources against the models that its own SDK has for them. Not a test: it runs beside them.

    build/clients/kserve/bin/python tests/deploy/kserve_resources.py runtime.yaml

Prints what is wrong, a line each: keys that no model knows, and values of another kind.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kserve
import yaml
from kubernetes.client import models as kubernetes

MODELS = {
    ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"): "V1alpha1ClusterServingRuntime",
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
}
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def find_faults(value: Any, kind: str, path: str) -> Iterator[str]:
    """What is wrong with a value that should be of `kind`, as the models write it: `list[V1Container]`, say."""
    inside = re.fullmatch(r"(list|dict)[\[(](?:str, ?)?(.+)[\])]", kind)
    if inside is not None:
        wanted = list if inside[1] == "list" else dict
        if not isinstance(value, wanted):
            yield f"{path} is no {inside[1]}"
            return
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from find_faults(each, inside[2], f"{path}.{key}")
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]):  # type: ignore[arg-type]
            yield f"{path} is no {kind}"
    else:
        yield from _of_model(value, kind, path)


def _of_model(value: Any, kind: str, path: str) -> Iterator[str]:
    model = getattr(kserve, kind, None) or getattr(kubernetes, kind, None)
    if model is None:
        return  # a quantity or an alternative of kinds: text or number
    if not isinstance(value, dict):
        yield f"{path} is no object"
        return
    names = {written: name for name, written in model.attribute_map.items()}
    for key, each in value.items():
        if key not in names:
            yield f"unknown key {path}.{key}"
        else:
            yield from find_faults(each, model.openapi_types[names[key]], f"{path}.{key}")


def main() -> None:
    """Check every document of the files named."""
    faults, seen = [], 0
    for name in sys.argv[1:]:
        with Path(name).open() as file:
            for document in yaml.safe_load_all(file):
                kind = MODELS[document["apiVersion"], document["kind"]]
                seen += 1
                faults += find_faults(document, kind, document["kind"])
    print("\n".join([f"{seen} checked", *faults]))
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
