"""Artifacts that come with the model: taken first where they are sound and trusted, never written."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from compiler.cache import Cache
from compiler.errors import LoadFailed
from compiler.shipping import SHIPPED_FOLDER, ship, with_shipped
from compiler.spec import Source
from tests.compiler.artifacts import KEY, make_artifact, never


@pytest.fixture
def source(tmp_path: Path) -> Source:
    folder = tmp_path / "digits" / "1"
    folder.mkdir(parents=True)
    return Source(folder, "factory", ("model.safetensors",))


@pytest.fixture
def shipped(cache: Cache, source: Source) -> Path:
    """The artifact beside the model, and a cache that is empty again."""
    place = ship(cache.get_or_build(KEY, make_artifact)[0], source.folder)
    cache.release(KEY)
    cache.prune(0)
    return place


def test_it_lies_beside_the_model_whole_and_once(cache: Cache, source: Source, shipped: Path) -> None:
    assert shipped == source.folder / SHIPPED_FOLDER / KEY
    assert ship(cache.get_or_build(KEY, make_artifact)[0], source.folder) == shipped
    assert [path.name for path in shipped.parent.iterdir()] == [KEY]


def test_an_empty_cache_takes_it_and_stays_empty(tmp_path: Path, source: Source, shipped: Path) -> None:
    elsewhere = with_shipped(Cache(tmp_path / "elsewhere"), source, trusted=True)
    assert elsewhere.get_or_build(KEY, never)[0] == shipped
    found = elsewhere.find(KEY, is_current=lambda manifest: False)
    assert found is not None, "it was shipped on purpose: a tool that is here now is no reason to build"
    assert not elsewhere.root.exists()


def test_it_needs_trust_as_any_code_does(cache: Cache, source: Source, shipped: Path) -> None:
    doubtful = with_shipped(cache, source, trusted=False)
    with pytest.raises(LoadFailed, match=r"machine code.*write `trust: true` in .*digits/model\.yaml"):
        doubtful.find(KEY)
    assert doubtful.find("c3" * 32) is None, "what does not fit is not asked about"


def test_a_harmed_one_is_told_and_built_anew(
    cache: Cache, source: Source, shipped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (shipped / "model.ts").write_bytes(b"weightz")
    with caplog.at_level(logging.WARNING, "torchere.compiler"):
        folder, _, cached = with_shipped(cache, source, trusted=True).get_or_build(KEY, make_artifact)
    assert (folder, cached) == (cache.root / KEY, False)
    assert "model.ts is not the file that was built" in caplog.text
    assert shipped.exists()


def test_links_among_shipped_files_are_refused(cache: Cache, source: Source, shipped: Path) -> None:
    (shipped / "model.ts").rename(source.folder / "moved")
    (shipped / "model.ts").symlink_to(source.folder / "moved")
    assert with_shipped(cache, source, trusted=True).find(KEY) is None
