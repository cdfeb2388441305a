"""The cache as its users see it: built once, published whole, verified on every load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from compiler.cache import Cache
from compiler.errors import CacheUnusable
from compiler.manifest import Candidate, FileEntry, read_manifest, write_manifest
from tests.compiler.artifacts import KEY, OTHER, make_artifact, never


def test_the_second_time_it_is_there(cache: Cache) -> None:
    folder, manifest, cached = cache.get_or_build(KEY, make_artifact)
    assert (folder.name, manifest.key, cached) == (KEY, KEY, False)
    assert manifest.milliseconds == {1: 1.0}
    assert cache.get_or_build(KEY, never) == (folder, manifest, True)


def test_the_folder_is_for_its_owner_only_and_nothing_temporary_stays(cache: Cache) -> None:
    cache.get_or_build(KEY, make_artifact)
    assert cache.root.stat().st_mode & 0o777 == 0o700
    assert list((cache.root / ".builds").iterdir()) == []


def tamper(folder: Path) -> None:
    (folder / "model.ts").write_bytes(b"weightz")


def tear(folder: Path) -> None:
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:40])


def lose(folder: Path) -> None:
    (folder / "model.ts").unlink()


def slip_in(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("")


def link(folder: Path) -> None:
    """The same bytes, behind a link: they could be changed after they were verified."""
    (folder / "model.ts").rename(folder.parent / "elsewhere")
    (folder / "model.ts").symlink_to(folder.parent / "elsewhere")


def link_a_folder(folder: Path) -> None:
    (folder / "more").symlink_to(folder.parent)


def put_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


def list_a_file_outside(folder: Path) -> None:
    (folder.parent / "outside").write_bytes(b"x")
    manifest = read_manifest(folder)
    entry = FileEntry("../outside", 1, "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    write_manifest(msgspec.structs.replace(manifest, files=(*manifest.files, entry)), folder)


HARMS = [tamper, tear, lose, slip_in, link, link_a_folder, put_a_pipe, list_a_file_outside]


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_artifact_is_set_aside_and_built_again(cache: Cache, harm: Callable[[Path], None]) -> None:
    folder, _, _ = cache.get_or_build(KEY, make_artifact)
    harm(folder)
    assert str(folder) in str(cache.verify(KEY))
    again, _, cached = cache.get_or_build(KEY, make_artifact)
    assert (again, cached, cache.verify(KEY)) == (folder, False, None)
    assert len(list(cache.root.glob(f"{KEY}.broken-*"))) == 1


def test_an_artifact_under_the_name_of_another_key_is_not_taken(cache: Cache) -> None:
    folder, _, _ = cache.get_or_build(KEY, make_artifact)
    folder.rename(cache.root / OTHER)
    assert "another key" in str(cache.verify(OTHER))


def test_an_artifact_that_is_a_link_is_not_taken(cache: Cache) -> None:
    folder, _, _ = cache.get_or_build(KEY, make_artifact)
    folder.rename(cache.root / ".hidden")
    folder.symlink_to(cache.root / ".hidden")
    assert "is a link" in str(cache.verify(KEY))
    assert cache.find(KEY) is None


def test_find_never_builds(cache: Cache) -> None:
    assert cache.find(KEY) is None
    assert not cache.root.exists()
    folder, manifest, _ = cache.get_or_build(KEY, make_artifact)
    assert cache.find(KEY) == (folder, manifest)
    assert cache.find(KEY, is_current=lambda manifest: False) is None


def test_an_artifact_that_is_not_current_is_built_again(cache: Cache) -> None:
    cache.get_or_build(KEY, make_artifact)
    _, _, cached = cache.get_or_build(KEY, make_artifact, is_current=lambda manifest: False)
    assert not cached
    assert list(cache.root.glob(f"{KEY}.*")) == []


def test_an_outdated_artifact_is_there_until_the_new_one_is(cache: Cache) -> None:
    folder, manifest, _ = cache.get_or_build(KEY, make_artifact)

    def fail(workspace: Path) -> Path:
        assert read_manifest(folder) == manifest
        raise KeyError("x")

    with pytest.raises(KeyError):
        cache.get_or_build(KEY, fail, is_current=lambda manifest: False)
    assert cache.find(KEY) == (folder, manifest)


def test_without_locks_the_second_to_publish_takes_what_the_first_published(cache: Cache) -> None:
    def overtaken(workspace: Path) -> Path:
        (workspace / "theirs").mkdir()
        make_artifact(workspace / "theirs").rename(cache.root / KEY)
        return make_artifact(workspace, content=b"mine")

    folder, manifest, _ = cache.get_or_build(KEY, overtaken)
    assert read_manifest(folder) == manifest
    assert (folder / "model.ts").read_bytes() == b"weights"


def test_a_build_that_fails_leaves_nothing(cache: Cache) -> None:
    def fail(workspace: Path) -> Path:
        (workspace / "half").write_bytes(b"")
        raise KeyError("x")

    with pytest.raises(KeyError):
        cache.get_or_build(KEY, fail)
    assert cache.list() == ()
    assert list((cache.root / ".builds").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheUnusable, match="file/cache"):
        Cache(tmp_path / "file" / "cache").get_or_build(KEY, make_artifact)


BUILDER = """
import sys
from pathlib import Path
from compiler.cache import Cache
from tests.compiler.artifacts import KEY, make_artifact

def build(workspace):
    with open({log!r}, "a") as log:
        log.write("built\\n")
    {middle}
    return make_artifact(workspace)

Cache(Path({root!r})).get_or_build(KEY, build)
"""


def start_builder(cache: Cache, log: Path, middle: str = "") -> subprocess.Popen[bytes]:
    code = BUILDER.format(log=str(log), root=str(cache.root), middle=middle)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )


def test_ten_processes_build_once(cache: Cache, tmp_path: Path) -> None:
    processes = [start_builder(cache, tmp_path / "log") for _ in range(10)]
    assert [process.communicate() and process.returncode for process in processes] == [0] * 10
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_builder_killed_in_the_middle_is_no_obstacle(cache: Cache, tmp_path: Path) -> None:
    middle = "(workspace / 'half').write_bytes(b'x'); print('in', flush=True); sys.stdin.read()"
    process = start_builder(cache, tmp_path / "log", middle)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == b"in\n"
        process.send_signal(signal.SIGKILL)
    assert len(list((cache.root / ".builds").iterdir())) == 1
    _, manifest, cached = cache.get_or_build(KEY, make_artifact)
    assert (manifest.key, cached) == (KEY, False)
    assert list((cache.root / ".builds").iterdir()) == []


def test_the_manifest_survives_its_own_json() -> None:
    candidate = Candidate("eager", "fp32", "chosen", milliseconds={1: 0.5, 8: 2.0})
    assert msgspec.json.decode(msgspec.json.encode(candidate), type=Candidate) == candidate
