"""docs/clients.md names every public call of the clients and the test that makes it: neither may have gone."""

from __future__ import annotations

import re

import pytest

from tests.e2e.conftest import ROOT
from tests.e2e.foreign.conftest import PAGE

TEST = re.compile(r"`(tests/[a-z0-9_/]+\.py)(?:::(test_[a-z0-9_]+))?`")


@pytest.mark.parametrize(("path", "name"), sorted(set(TEST.findall(PAGE.read_text()))))
def test_every_test_that_the_page_names_is_there(path: str, name: str) -> None:
    source = (ROOT / path).read_text()
    assert not name or f"def {name}(" in source
