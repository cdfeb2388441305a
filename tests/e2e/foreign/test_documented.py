"""Every curl example of the pages, run by bash as a reader would paste it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer

STRICT = 'set -euo pipefail\ncurl() { command curl --fail-with-body "$@"; }\n'  # a status of an error ends it


def examples(page: str) -> list[str]:
    """Paragraphs of the page's shell blocks that call curl, what they need before them."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    paragraphs = [paragraph for block in blocks for paragraph in block.strip().split("\n\n")]
    return [each for each in paragraphs if "curl -" in each or "=http" in each]


def run(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-c", STRICT + script], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    assert '"error"' not in done.stdout
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the reader is: with a picture of a cat."""
    Image.fromarray(data.chelsea()).save(tmp_path / "cat.jpg")
    return tmp_path


def test_the_first_inference_of_the_readme(demo: RunningServer, folder: Path) -> None:
    (example,) = examples("README.md")
    answer = json.loads(run(example.replace("http://127.0.0.1:8000", demo.http), folder))
    assert np.argmax(answer["outputs"]["probabilities"][0]) == 0, "it is a picture of a zero"


def test_the_examples_of_http(demo: RunningServer, folder: Path) -> None:
    first, *others = examples("docs/http.md")
    said = run("\n".join([first.replace("http://127.0.0.1:8000", demo.http), *others]), folder)
    assert said.count('"outputs"') >= 4
    assert said.count('"predictions"') == 1
    assert "tabby" in said, "it knows a cat when it sees one"
    assert "server-timing: queue;dur=" in said
    assert np.load(folder / "answer.npy").shape == (1, 10)
    assert (folder / "answer.bin").stat().st_size > 40, "ten numbers behind their description"


def test_the_examples_of_control(open_server: RunningServer, folder: Path) -> None:
    """`times`, which the server can do without, in place of `digits` where models come and go."""
    for example in examples("docs/control.md"):
        script = example.replace("http://", "").replace("localhost:8000", open_server.http)
        if "/repository/" in script:
            script = script.replace("digits", "times").replace(": 16", ": 2")
        run(script, folder)
    run(f"curl {open_server.http}/v2/repository/models/times/unload -d ''", folder)
    run(f'curl {open_server.http}/v2/logging -d \'{{"log_verbose_level": 0, "log_info": true}}\'', folder)


def test_the_python_of_the_readme(demo: RunningServer, folder: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    program = program.replace("127.0.0.1:8000", demo.http.removeprefix("http://"))
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[[")
