"""What the compiler is asked for: the artifact of a model, from the cache or built now, or the quickest that is right.

Imports no torch. `pipeline.py` builds, `cache.py` keeps; the package hands these functions on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from compiler.cache import Cache
from compiler.errors import LoadFailed
from compiler.jobs import Note
from compiler.journal import Journal, Progress
from compiler.key import digest, key_parts
from compiler.manifest import Manifest
from compiler.pipeline import build_artifact, build_fallback
from compiler.spec import BACKENDS, PRECISIONS, Options, Source, Target
from compiler.tools import is_current


class Artifact(msgspec.Struct, frozen=True):
    """A compiled model: its folder, what is in it, whether it was there already, and how long we took (seconds)."""

    folder: Path
    manifest: Manifest
    cached: bool
    seconds: float


def compile(
    source: Source,
    options: Options,
    target: Target,
    cache: Cache,
    report: Callable[[Progress], None] = lambda progress: None,
    niceness: int = 0,
) -> Artifact:
    """The artifact of a model, from the cache or built now. Blocks; call it in a thread.

    A hit starts no process. `report` is called at least every second while something is built; what it raises stops
    the builders and passes through. `niceness` lets the builders stand back for what serves meanwhile.
    Raises LoadFailed, NoCandidate or CacheUnusable; each is a sentence for the owner.
    """
    _check_names(options)
    started = time.monotonic()
    journal = Journal(report)
    parts = key_parts(source, options, target)
    key = digest(parts)
    folder, manifest, cached = cache.get_or_build(
        key,
        build_artifact(source, options, target, parts, journal, niceness),
        is_current=is_current,
        on_wait=lambda: journal.hear(Note("wait", "another process compiles this model")),
    )
    return Artifact(folder, manifest, cached, time.monotonic() - started)


def fallback(
    source: Source,
    options: Options,
    target: Target,
    cache: Cache,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Artifact:
    """The quickest artifact that is right: the model itself, run eagerly, after the checks that any model must pass.

    It serves while `compile` works; its manifest `is_fallback` and has no times. Raises as `compile` does.
    """
    started = time.monotonic()
    journal = Journal(report)
    plain = msgspec.structs.replace(options, backends=("eager",), precisions=("fp32",), strict=False)
    parts = {**key_parts(source, plain, target), "purpose": "fallback"}
    key = digest(parts)
    folder, manifest, cached = cache.get_or_build(
        key,
        build_fallback(source, plain, target, parts, journal),
        on_wait=lambda: journal.hear(Note("wait", "another process prepares this model")),
    )
    return Artifact(folder, manifest, cached, time.monotonic() - started)


def find(source: Source, options: Options, target: Target, cache: Cache) -> Artifact | None:
    """The artifact that `compile` would take from the cache; None where it would build. Starts no process."""
    _check_names(options)
    started = time.monotonic()
    found = cache.find(digest(key_parts(source, options, target)), is_current)
    return None if found is None else Artifact(*found, True, time.monotonic() - started)


def _check_names(options: Options) -> None:
    for what, given, known in (
        ("backend", options.backends, BACKENDS),
        ("precision", options.precisions, PRECISIONS),
    ):
        unknown = [name for name in given or () if name not in known]
        if unknown or given == ():
            wrong = f"unknown {what} '{unknown[0]}'" if unknown else f"no {what} is asked for"
            raise LoadFailed(f"{wrong}: there are {', '.join(known)}")
