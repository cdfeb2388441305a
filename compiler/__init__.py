"""Turns a model into the fastest artifact for this machine that is proven to compute the same function.

    artifact = compile(find_source(folder), Options(), detect_target("cpu"), Cache(root))
    model = backends.load(artifact.folder, artifact.manifest, "cpu")        # in an engine: imports torch

Knows nothing of serving, and imports no torch: builder processes do. `pipeline.py` shows the stages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from compiler.cache import Cache
from compiler.errors import LoadFailed
from compiler.jobs import Note
from compiler.key import digest, key_parts
from compiler.manifest import Manifest
from compiler.pipeline import Journal, Progress, build_artifact
from compiler.source import find_source
from compiler.spec import BACKENDS, Options, Source, Target
from compiler.target import detect_devices, detect_target
from compiler.tools import is_current

__all__ = [
    "Artifact",
    "Cache",
    "Options",
    "Progress",
    "Source",
    "Target",
    "compile",
    "detect_devices",
    "detect_target",
    "find_source",
]


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
) -> Artifact:
    """The artifact of a model, from the cache or built now. Blocks; call it in a thread.

    A hit starts no process. `report` is called at least every second while something is built; what it raises stops
    the builders and passes through. Raises LoadFailed, NoCandidate or CacheUnusable; each is a sentence for the owner.
    """
    unknown = [name for name in options.backends if name not in BACKENDS]
    if unknown or not options.backends:
        what = f"unknown backend '{unknown[0]}'" if unknown else "no backend is asked for"
        raise LoadFailed(f"{what}: there are {', '.join(BACKENDS)}")
    started = time.monotonic()
    journal = Journal(report)
    parts = key_parts(source, options, target)
    key = digest(parts)
    folder, manifest, cached = cache.get_or_build(
        key,
        build_artifact(source, options, target, parts, key, journal),
        is_current=is_current,
        on_wait=lambda: journal.hear(Note("wait", "another process compiles this model")),
    )
    return Artifact(folder, manifest, cached, time.monotonic() - started)
