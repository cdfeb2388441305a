"""The service's parent compiles without importing torch."""

from __future__ import annotations

import subprocess
import sys

TORCH_FREE = ["compiler", "compiler.pipeline", "compiler.resolve", "compiler.choose", "compiler.backends"]
TORCH_FREE += [
    f"compiler.{name}" for name in ("spec", "errors", "target", "key", "cache", "manifest", "isolate", "source")
]


def test_what_the_parent_imports_is_free_of_torch() -> None:
    code = f"import sys, {', '.join(TORCH_FREE)}; compiler.detect_target('cpu'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
