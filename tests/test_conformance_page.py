"""docs/conformance.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`([\w/]+\.py)(?:::(test_\w+))?`")


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "conformance.md").read_text()
    named = [
        (ROOT / "tests" / path, test)
        for path, test in NAMED.findall(page)
        if path.startswith(("service/", "e2e/", "compiler/", "gpu/", "test_"))
    ]
    assert len(named) > 80
    lost = [f"{path.name}::{test}" for path, test in named if not _exists(path, test)]
    assert not lost


def _exists(path: Path, test: str) -> bool:
    return path.is_file() and (not test or f"def {test}(" in path.read_text())


def test_every_suite_has_an_answer_to_each_behaviour() -> None:
    page = (ROOT / "docs" / "conformance.md").read_text()
    tables, _, _ = page.partition("## Memory under load")
    rows = [line.split("|") for line in tables.splitlines() if line.startswith("| ") and "| suite |" not in line]
    assert not [row for row in rows if len(row) != 5 or not row[3].strip()]
