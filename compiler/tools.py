"""Says whether the tools that a backend needs are installed here.

Knows nothing of torch or of backends' work. `backends/inductor.py` asks before it builds; `__init__.py` asks whether an
artifact that was made without a tool should now be made again.
"""

from __future__ import annotations

import os
import shutil

from compiler.manifest import Manifest


def find_cxx() -> str | None:
    """The path of the C++ compiler that AOTInductor will call: $CXX, else g++."""
    return shutil.which(os.environ.get("CXX") or "g++")


def is_current(manifest: Manifest) -> bool:
    """False where a rung was skipped for want of a compiler that is here now."""
    return find_cxx() is None or all(rung.outcome != "skipped" for rung in manifest.ladder)
