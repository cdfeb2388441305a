"""Turns a model into the fastest artifact for this machine that is proven to compute the same function.

    artifact = compile(find_source(folder), Options(), detect_target("cpu"), Cache(root))
    model = backends.load(artifact.folder, artifact.manifest, "cpu")        # in an engine: imports torch

Knows nothing of serving, and imports no torch: builder processes do. `pipeline.py` shows the stages. What
is named here is imported when it is first asked for: a frontend needs `compiler.spec` alone, and would hold the rest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.cache import Cache
    from compiler.compiling import Artifact, compile, fallback, find
    from compiler.journal import Progress, RungState
    from compiler.source import find_source
    from compiler.spec import Options, Rung, Source, Target
    from compiler.target import detect_devices, detect_target
else:
    _PLACES = {
        "Cache": "cache",
        **dict.fromkeys(("Artifact", "compile", "fallback", "find"), "compiling"),
        **dict.fromkeys(("Progress", "RungState"), "journal"),
        "find_source": "source",
        **dict.fromkeys(("Options", "Rung", "Source", "Target"), "spec"),
        **dict.fromkeys(("detect_devices", "detect_target"), "target"),
    }

    def __getattr__(name):
        if name not in _PLACES:
            raise AttributeError(f"module 'compiler' has no attribute '{name}'")
        return getattr(importlib.import_module(f"compiler.{_PLACES[name]}"), name)


__all__ = [
    "Artifact",
    "Cache",
    "Options",
    "Progress",
    "Rung",
    "RungState",
    "Source",
    "Target",
    "compile",
    "detect_devices",
    "detect_target",
    "fallback",
    "find",
    "find_source",
]
