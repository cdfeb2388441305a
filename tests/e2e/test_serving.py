"""The whole road on the demo repository: compiled once, cached, right under load, alive after a crash."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.e2e.conftest import ROOT

CLIENTS = 64


def digits_held_out() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The held-out split that models/digits/train.py measured its accuracy on."""
    program = (
        "import runpy, json, sys; train = runpy.run_path(sys.argv[1]); images, labels = train['held_out']();"
        "import numpy as np; np.savez(sys.argv[2], images=np.asarray(images), labels=np.asarray(labels))"
    )
    target = Path("/tmp/held_out.npz")
    subprocess.run([sys.executable, "-c", program, str(ROOT / "models/digits/train.py"), str(target)], check=True)
    data = np.load(target)
    return data["images"], data["labels"]
