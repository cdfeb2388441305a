"""What crosses a process border on its way to a client names files, but not where they lie."""

from __future__ import annotations

import pytest

from service.describe import as_clients_see
from service.errors import Exhausted, InvalidInput, QueueFull, from_inside, without_paths
from tests.fakes import entry


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        ("no such file: '/srv/models/words.txt'", "no such file: 'words.txt'"),
        ("/srv/models/pets/1/model.py cannot be loaded", "model.py cannot be loaded"),
        ('File "/opt/lib/x.py", line 3, in /tmp/torchere-x/y:', 'File "x.py", line 3, in y:'),
        ("see https://example.org/a/b, or models/pets/1", "see https://example.org/a/b, or models/pets/1"),
        ("1/2 of a/b/c and /docs", "1/2 of a/b/c and /docs"),
        ("expected FP32 [-1,3] (batch up to 8)", "expected FP32 [-1,3] (batch up to 8)"),
    ],
)
def test_paths_lose_their_folders(sentence: str, plain: str) -> None:
    assert without_paths(sentence) == plain
    error = from_inside("invalid", sentence)
    assert (type(error), str(error)) == (InvalidInput, plain)


def test_an_error_says_when_to_come_back_where_that_is_known() -> None:
    assert from_inside("queue_full", "wait").retry_after_s == QueueFull.retry_after_s
    error = from_inside("queue_full", "wait", 0.25)
    assert Exhausted.instead_of(error).retry_after_s == 0.25


def test_so_do_the_reasons_of_models() -> None:
    seen = as_clients_see(entry(reason="/srv/m/1/model.pt is code", progress="eager failed: /tmp/a/b.cpp:3"))
    assert (seen.reason, seen.progress) == ("model.pt is code", "eager failed: b.cpp:3")
    plain = entry()
    assert as_clients_see(plain) is plain
