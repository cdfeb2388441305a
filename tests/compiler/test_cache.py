from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from compiler.cache import Cache, Entry, choose_evictions
from compiler.errors import CacheUnusable
from compiler.manifest import Candidate, Manifest, write_manifest
from compiler.package import list_files
from compiler.spec import Target

KEY = "a1" * 32


def make_artifact(folder: Path, key: str = KEY, content: bytes = b"weights") -> Path:
    """A small sound artifact in `folder`/artifact."""
    artifact = folder / "artifact"
    artifact.mkdir()
    (artifact / "model.ts").write_bytes(content)
    manifest = Manifest(
        key=key,
        key_parts={},
        target=Target("cpu", "test", (), "0", None, "Linux", "3"),
        backend="eager",
        precision="fp32",
        inputs=(),
        outputs=(),
        max_batch_size=0,
        buckets=(),
        ladder=(Candidate("eager", "fp32", "chosen", milliseconds={1: 1.0}),),
        files=list_files(artifact),
        stage_seconds={},
        created="2026-01-01T00:00:00+00:00",
    )
    write_manifest(manifest, artifact)
    return artifact


def never(workspace: Path) -> Path:
    raise AssertionError("a hit builds nothing")


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


@pytest.mark.parametrize("harm", [tamper, tear, lose, slip_in])
def test_a_harmed_artifact_is_set_aside_and_built_again(cache: Cache, harm: Callable[[Path], None]) -> None:
    folder, _, _ = cache.get_or_build(KEY, make_artifact)
    harm(folder)
    assert str(folder) in str(cache.verify(KEY))
    again, _, cached = cache.get_or_build(KEY, make_artifact)
    assert (again, cached, cache.verify(KEY)) == (folder, False, None)
    assert len(list(cache.root.glob(f"{KEY}.broken-*"))) == 1


def test_an_artifact_under_the_name_of_another_key_is_not_taken(cache: Cache) -> None:
    folder, _, _ = cache.get_or_build(KEY, make_artifact)
    other = "b2" * 32
    folder.rename(cache.root / other)
    assert "another key" in str(cache.verify(other))


def test_an_artifact_that_is_not_current_is_built_again(cache: Cache) -> None:
    cache.get_or_build(KEY, make_artifact)
    _, _, cached = cache.get_or_build(KEY, make_artifact, is_current=lambda manifest: False)
    assert not cached
    assert list(cache.root.glob(f"{KEY}.*")) == []


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


def test_the_longest_unused_go_first() -> None:
    entries = tuple(Entry(name, Path(name), 10, used) for name, used in [("new", 3.0), ("old", 1.0), ("middle", 2.0)])
    assert [entry.key for entry in choose_evictions(entries, 10)] == ["old", "middle"]
    assert choose_evictions(entries, 30) == ()


def test_prune_keeps_what_was_used_last(cache: Cache) -> None:
    other = "c3" * 32
    cache.get_or_build(KEY, make_artifact)
    cache.get_or_build(other, lambda folder: make_artifact(folder, other))
    os.utime(cache.root / other, (1, 1))
    assert [entry.key for entry in cache.list()] == [KEY, other]
    assert [entry.key for entry in cache.prune(cache.list()[0].size)] == [other]
    assert [entry.key for entry in cache.list()] == [KEY]


BUILDER = """
import sys
from pathlib import Path
from compiler.cache import Cache
sys.path.insert(0, {tests!r})
from test_cache import KEY, make_artifact

def build(workspace):
    with open({log!r}, "a") as log:
        log.write("built\\n")
    {middle}
    return make_artifact(workspace)

Cache(Path({root!r})).get_or_build(KEY, build)
"""


def start_builder(cache: Cache, log: Path, middle: str = "") -> subprocess.Popen[bytes]:
    tests = str(Path(__file__).parent)
    code = BUILDER.format(tests=tests, log=str(log), root=str(cache.root), middle=middle)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


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
