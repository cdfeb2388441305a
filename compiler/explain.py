"""Says why a model would be compiled anew: the parts of its key that differ from those of the nearest artifact.

Pure, but for the reading of manifests in `known_manifests`. `torchere compile --explain` prints what is found here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from compiler.cache import Cache
from compiler.key import changed_parts
from compiler.manifest import Manifest, read_manifest

DIGEST = re.compile(r"[0-9a-f]{64}")
SHORT_DIGEST = 12  # hexadecimal digits: enough to tell files apart
WIDTH = 60  # characters of a value; two of them and the name fit on a wide line
BEFORE = 15  # characters shown before the first difference of two long values


class Change(msgspec.Struct, frozen=True):
    """One part of a key that differs; None: a list of parts does not have it. Both values are short enough to show."""

    name: str
    old: str | None
    new: str | None


class Miss(msgspec.Struct, frozen=True):
    """Why no artifact fits: what differs from `nearest`, and how that was chosen. None: nothing to compare with."""

    nearest: Manifest | None
    how: str
    changes: tuple[Change, ...]


def explain_miss(parts: Mapping[str, str], origin: str, known: Iterable[Manifest]) -> Miss:
    """Compare `parts` with the artifacts that are `known`; `origin` ("digits/1") is preferred where there is one of it.

    An older version of the same model comes next, then whatever has the fewest differences.
    """
    model = origin.partition("/")[0]
    candidates = [manifest for manifest in known if "purpose" not in manifest.key_parts]
    same_version = [manifest for manifest in candidates if manifest.origin == origin]
    same_model = [manifest for manifest in candidates if manifest.origin.partition("/")[0] == model]
    among = same_version or same_model or candidates
    if not among:
        return Miss(None, "there is no artifact to compare with", ())
    changes = {manifest.key: find_changes(manifest.key_parts, parts) for manifest in among}
    nearest = max(among, key=lambda manifest: (-len(changes[manifest.key]), manifest.created))
    what = f"of {origin}" if same_version else f"of {model}" if same_model else "of any model"
    how = f"the artifact {what} with the fewest changed parts" if len(among) > 1 else f"the only artifact {what}"
    return Miss(nearest, how, changes[nearest.key])


def find_changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Change, ...]:
    """The parts that differ, by name, with values that fit on a line."""
    return tuple(Change(name, *shorten(*values)) for name, values in changed_parts(old, new).items())


def shorten(old: str | None, new: str | None) -> tuple[str | None, str | None]:
    """Two values that differ, so that what differs is seen: digests by their beginning, long ones around the place.

    >>> shorten("x" * 100 + "1", "x" * 100 + "2")
    ('...xxxxxxxxxxxxxxx1', '...xxxxxxxxxxxxxxx2')
    """
    if old is None or new is None:
        return _clip(old), _clip(new)
    if DIGEST.fullmatch(old) and DIGEST.fullmatch(new):
        return _clip(old), _clip(new)
    if max(len(old), len(new)) <= WIDTH:
        return old, new
    pairs = enumerate(zip(old, new, strict=False))
    first = next((index for index, (one, other) in pairs if one != other), min(len(old), len(new)))
    return _window(old, first), _window(new, first)


def known_manifests(cache: Cache) -> Iterator[Manifest]:
    """Of every artifact that can be read: shipped with the model first, then those of the cache."""
    folders = [folder for shipped in cache.shipped if shipped.is_dir() for folder in sorted(shipped.iterdir())]
    for folder in [*folders, *(entry.folder for entry in cache.list())]:
        manifest = _read(folder)
        if manifest is not None:
            yield manifest


def _read(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except (OSError, msgspec.DecodeError):  # of another version of torchere, or harmed: nothing to compare with
        return None


def _clip(value: str | None) -> str | None:
    if value is None:
        return None
    if DIGEST.fullmatch(value):
        return value[:SHORT_DIGEST]
    return value if len(value) <= WIDTH else f"{value[:WIDTH]}..."


def _window(value: str, first: int) -> str:
    start = max(0, first - BEFORE)
    end = start + WIDTH
    return f"{'...' if start else ''}{value[start:end]}{'...' if end < len(value) else ''}"
