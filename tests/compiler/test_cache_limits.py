"""What a cache removes and what it keeps: the limit of its size, artifacts in use, artifacts set aside."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.cache import Cache
from compiler.evict import Entry, choose_evictions, choose_unused
from tests.compiler.artifacts import KEY, OTHER, make_artifact

THIRD = "c3" * 32


def fill(cache: Cache, *keys: str) -> int:
    """Artifacts of `keys`, the first used longest ago, none in use; the size of one."""
    for age, key in enumerate(reversed(keys)):
        cache.get_or_build(key, lambda folder, key=key: make_artifact(folder, key))  # type: ignore[misc]
        cache.release(key)
        os.utime(cache.root / key, (1e9 - age, 1e9 - age))
    return cache.list()[0].size


def keys(cache: Cache) -> list[str]:
    return [entry.key for entry in cache.list()]


def test_the_longest_unused_go_first_and_before_them_what_was_set_aside() -> None:
    named = [("new", 3.0, ""), ("old", 1.0, ""), ("middle", 2.0, ""), ("harmed", 4.0, "broken")]
    entries = tuple(Entry(name, Path(name), 10, used, aside) for name, used, aside in named)
    assert [entry.key for entry in choose_evictions(entries, 10)] == ["harmed", "old", "middle"]
    assert [entry.key for entry in choose_evictions(entries, 20, keep={"old"})] == ["harmed", "middle"]
    assert choose_evictions(entries, 40) == ()
    assert [entry.key for entry in choose_unused(entries, 2.0)] == ["old"]


def test_prune_keeps_what_was_used_last(cache: Cache) -> None:
    size = fill(cache, OTHER, KEY)
    assert keys(cache) == [KEY, OTHER]
    assert [entry.key for entry in cache.prune(size)] == [OTHER]
    assert keys(cache) == [KEY]


def test_a_build_removes_the_longest_unused_beyond_the_limit(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    size = fill(cache, OTHER, KEY)
    limited = Cache(cache.root, max_bytes=2 * size)
    with caplog.at_level(logging.INFO, "torchere.compiler"):
        limited.get_or_build(THIRD, lambda folder: make_artifact(folder, THIRD))
    assert keys(cache) == [THIRD, KEY]
    assert f"removed {OTHER}" in caplog.text


def test_a_hit_removes_nothing(cache: Cache) -> None:
    fill(cache, OTHER, KEY)
    assert Cache(cache.root, max_bytes=1).find(KEY) is not None
    assert keys(cache) == [KEY, OTHER]


def test_what_this_process_uses_stays_though_the_limit_is_passed(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    fill(cache, OTHER, KEY)
    limited = Cache(cache.root, max_bytes=1)
    assert limited.find(OTHER) is not None
    limited.get_or_build(THIRD, lambda folder: make_artifact(folder, THIRD))
    assert keys(cache) == [THIRD, OTHER]
    assert "in use, more than its limit of 1" in caplog.text
    limited.release(OTHER)
    assert [entry.key for entry in limited.trim()] == [OTHER]


SERVER = """
import sys
from pathlib import Path
from compiler.cache import Cache

cache = Cache(Path(sys.argv[1]))
assert cache.find(sys.argv[2])
print("serving", flush=True)
sys.stdin.read()
"""


def test_what_another_process_uses_stays_until_it_leaves(cache: Cache) -> None:
    fill(cache, OTHER, KEY)
    command = [sys.executable, "-c", SERVER, str(cache.root), KEY]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"serving\n"
        assert cache.is_used(KEY)
        assert [entry.key for entry in cache.prune(0)] == [OTHER]
        server.kill()
    assert not cache.is_used(KEY)
    assert [entry.key for entry in cache.prune(0)] == [KEY]


def test_what_was_set_aside_is_listed_until_it_is_pruned(cache: Cache) -> None:
    folder, _, _ = cache.get_or_build(KEY, make_artifact)
    (folder / "model.ts").write_bytes(b"weightz")
    cache.get_or_build(KEY, make_artifact)
    assert [(entry.key, entry.aside) for entry in cache.list_aside()] == [(KEY, "broken")]
    assert [(entry.key, entry.aside) for entry in cache.prune(10**9)] == [(KEY, "broken")]
    assert cache.list_aside() == ()
    assert keys(cache) == [KEY]
