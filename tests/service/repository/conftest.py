"""What tests of the repository share: the folder of one model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    (folder / "1").mkdir(parents=True)
    return folder
