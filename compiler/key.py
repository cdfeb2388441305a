"""The key of an artifact: a list of named parts, hashed so that no two lists can meet by concatenation.

Knows nothing of folders of artifacts or of torch. `cache.py` files artifacts under the key; a miss can say which part
changed by comparing with the parts that an older manifest keeps.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping

import msgspec

from compiler.errors import LoadFailed
from compiler.manifest import SCHEMA
from compiler.source import file_digest
from compiler.spec import Options, Source, Target

# Raise it when the stages change what they make of equal parts: artifacts of before are then built anew.
PIPELINE = 1


def key_parts(source: Source, options: Options, target: Target) -> dict[str, str]:
    """Everything an artifact depends on, by name. Raises LoadFailed for a missing file or distribution."""
    parts = {"schema": f"{SCHEMA}.{PIPELINE}", "source.kind": source.kind}
    if source.factory is not None:
        parts["source.factory"] = msgspec.json.encode(source.factory).decode()
    for name in source.files:
        try:
            parts[f"source.{name}"] = file_digest(source.folder / name)
        except OSError as error:
            raise LoadFailed(f"{source.folder / name} cannot be read: {error.strerror}") from error
    for distribution in source.requires:
        parts[f"requires.{distribution}"] = _installed_version(distribution)
    for name in options.__struct_fields__:
        plain = msgspec.to_builtins(getattr(options, name), str_keys=True)  # numbers cannot be sorted as keys
        parts[f"options.{name}"] = msgspec.json.encode(plain, order="deterministic").decode()
    # The number of a GPU is not a part: four equal ones share one artifact.
    parts["target.device"] = target.kind
    for name in ("name", "capabilities", "torch", "cuda", "system", "python", "tensorrt", "quantizers"):
        parts[f"target.{name}"] = msgspec.json.encode(getattr(target, name)).decode()
    return parts


def digest(parts: Mapping[str, str]) -> str:
    """The key, 64 hexadecimal digits. Each name and value is preceded by its length in bytes."""
    state = hashlib.sha256()
    for name, value in sorted(parts.items()):
        for text in (name, value):
            data = text.encode()
            state.update(len(data).to_bytes(8, "big"))
            state.update(data)
    return state.hexdigest()


def changed_parts(old: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """The parts that differ: name -> (old value, new value), None where a list does not have it."""
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def _installed_version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise LoadFailed(
            f"the model requires the distribution '{distribution}', which is not installed here: "
            f"pip install {distribution}"
        ) from error
