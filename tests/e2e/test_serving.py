"""The whole road on the demo repository: compiled once, served from the cache, right under load, alive after a crash."""

import json
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer

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
