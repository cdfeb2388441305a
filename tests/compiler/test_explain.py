"""Why a model would be compiled anew, in names and values that a person can read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from compiler.cache import Cache
from compiler.explain import Change, explain_miss, find_changes, known_manifests, shorten
from compiler.manifest import Manifest, read_manifest
from tests.compiler.artifacts import KEY, make_artifact


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return read_manifest(make_artifact(tmp_path))


def known(manifest: Manifest, key: str, origin: str, created: str = "2026-01-01", **parts: str) -> Manifest:
    return msgspec.structs.replace(manifest, key=key, origin=origin, created=created, key_parts=parts)


def test_a_changed_part_is_named_with_both_values() -> None:
    changes = find_changes({"a": "1", "b": "2", "gone": "3"}, {"a": "1", "b": "4", "new": "5"})
    assert changes == (Change("b", "2", "4"), Change("gone", "3", None), Change("new", None, "5"))


def test_digests_are_shown_by_their_beginning() -> None:
    assert shorten("a1" * 32, "b2" * 32) == ("a1a1a1a1a1a1", "b2b2b2b2b2b2")
    assert shorten(None, "b2" * 32) == (None, "b2b2b2b2b2b2")


def test_long_values_are_shown_around_what_differs() -> None:
    old, new = shorten("x" * 100 + "old" + "y" * 100, "x" * 100 + "new" + "y" * 100)
    assert (old, new) == ("..." + "x" * 15 + "old" + "y" * 42 + "...", "..." + "x" * 15 + "new" + "y" * 42 + "...")
    assert shorten("x" * 100, "x" * 101)[1] == "..." + "x" * 16


def test_the_same_version_is_compared_before_the_same_model_before_any_other(manifest: Manifest) -> None:
    parts = {"source": "1", "torch": "2"}
    other = known(manifest, "1", "other/1", source="1", torch="3")
    older = known(manifest, "2", "digits/1", source="0", torch="1")
    same = known(manifest, "3", "digits/2", source="0", torch="1")
    miss = explain_miss(parts, "digits/2", [other, older, same])
    assert (miss.nearest, miss.how) == (same, "the only artifact of digits/2")
    assert [change.name for change in miss.changes] == ["source", "torch"]
    miss = explain_miss(parts, "digits/2", [other, older])
    assert (miss.nearest, miss.how) == (older, "the only artifact of digits")
    assert explain_miss(parts, "new/1", [other, older]).nearest == other


def test_among_several_the_one_with_the_fewest_changes_then_the_latest(manifest: Manifest) -> None:
    far = known(manifest, "1", "digits/1", "2026-03-01", a="0", b="0")
    old = known(manifest, "2", "digits/1", "2026-01-01", a="1", b="0")
    late = known(manifest, "3", "digits/1", "2026-02-01", a="1", b="0")
    miss = explain_miss({"a": "1", "b": "1"}, "digits/1", [far, old, late])
    assert (miss.nearest, miss.how) == (late, "the artifact of digits/1 with the fewest changed parts")
    assert miss.changes == (Change("b", "0", "1"),)


def test_nothing_to_compare_with_is_said(manifest: Manifest) -> None:
    fallback = known(manifest, "1", "digits/1", purpose="fallback")
    assert explain_miss({"a": "1"}, "digits/1", [fallback]).how == "there is no artifact to compare with"


def test_manifests_come_from_the_cache_and_from_beside_the_model(cache: Cache, tmp_path: Path) -> None:
    cache.get_or_build(KEY, make_artifact)
    shipped = tmp_path / "artifacts"
    shipped.mkdir()
    (shipped / "torn").mkdir()
    make_artifact(tmp_path).rename(shipped / KEY)
    assert [manifest.key for manifest in known_manifests(cache.with_shipped(shipped))] == [KEY, KEY]
