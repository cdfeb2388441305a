"""The loader with a compiler that only says what it did. Not a test."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from compiler import Artifact, Cache, Options, Progress, Source, Target
from compiler.manifest import Candidate, Manifest
from service.loading import Loader
from service.repository.catalog import Entry
from service.settings import Settings

TARGET = Target("cpu", "test", (), "0", None, "Linux", "3")


CONFIG = """
trust: true
max_batch_size: 8
inputs:
  - {name: x, datatype: FP32, shape: [-1, 3]}
"""


def manifest(backend: str, **changes: Any) -> Manifest:
    found = Manifest(
        key=backend,
        key_parts={"source.model.py": "1"},
        target=TARGET,
        backend=backend,
        precision="fp32",
        inputs=(),
        outputs=(),
        max_batch_size=8,
        buckets=(1, 8),
        ladder=(Candidate(backend, "fp32", "chosen"), Candidate("tensorrt", "fp16", "failed", "it crashed")),
        files=(),
        stage_seconds={"build": 1.0},
        created="2026-01-01T00:00:00+00:00",
    )
    return msgspec.structs.replace(found, **changes)


class FakeCompiler:
    """By the name of the model's folder: `cached` are found, `fails` and `winners` say what comes of the others.

    `calls` keeps what was asked, in order.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cached: set[str] = set()
        self.fails: dict[str, Exception] = {}
        self.winners: dict[str, Manifest] = {}
        self.while_compiling: Callable[[], None] = lambda: None

    def find(self, source: Source, options: Options, target: Target, cache: Cache) -> Artifact | None:
        return self._artifact("torchscript", cached=True) if _name(source) in self.cached else None

    def fallback(self, source: Source, options: Options, target: Target, cache: Cache, report: Any) -> Artifact:
        self._note("fallback", source, report)
        return self._artifact("eager", is_fallback=True)

    def compile(
        self, source: Source, options: Options, target: Target, cache: Cache, report: Any, niceness: int
    ) -> Artifact:
        self.while_compiling()
        self._note("compile" if not niceness else f"compile at {niceness}", source, report)
        found = self.winners.get(_name(source))
        return self._artifact("inductor") if found is None else Artifact(Path("/c"), found, False, 0.1)

    def _note(self, what: str, source: Source, report: Callable[[Progress], None]) -> None:
        report(Progress("build", "inductor fp32", 0.0, "building"))
        self.calls.append(f"{what} {_name(source)}")
        failure = self.fails.get(f"{what} {_name(source)}")
        if failure is not None:
            raise failure

    def _artifact(self, backend: str, cached: bool = False, **changes: Any) -> Artifact:
        return Artifact(Path(f"/cache/{backend}"), manifest(backend, **changes), cached, 0.1)


def _name(source: Source) -> str:
    return source.folder.parent.name


class FakeAudience:
    """Keeps what it is told, in words."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.entries: dict[str, Entry] = {}
        self.settled = asyncio.Event()
        self.let_go: Callable[[str], None] = lambda folder: None

    def announced(self, entry: Entry) -> None:
        self.told.append(f"{entry.name}: {entry.state.lower()}")

    def reloading(self, key: tuple[str, str]) -> None:
        self.told.append(f"{key[0]}: reloading")

    def progressed(self, key: tuple[str, str], note: str) -> None:
        self.told.append(f"{key[0]}: {note}")

    def offered(self, entry: Entry, folder: Path, *, is_final: bool, shortfall: str = "") -> None:
        self.entries[entry.name] = entry
        end = f", {shortfall}" if shortfall else ""
        self.told.append(f"{entry.name}: {'winner' if is_final else 'fallback'} {entry.backend}{end}")

    def failed(self, key: tuple[str, str], reason: str) -> None:
        self.told.append(f"{key[0]}: failed: {reason}")

    def of(self, name: str) -> list[str]:
        return [line.removeprefix(f"{name}: ") for line in self.told if line.startswith(f"{name}: ")]


class Bench:
    """A repository in a folder, a compiler that pretends, and a loader between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.compiler = FakeCompiler()
        self.audience = FakeAudience()

    def add(self, name: str, config: str = "") -> None:
        version = self.folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text("def create_model(): ...\n")
        (version.parent / "model.yaml").write_text(CONFIG + config)

    def run(self, **settings: Any) -> None:
        """Until the loader has nothing more to do."""

        async def run() -> None:
            loader = self.loader(**settings)
            loader.start()
            assert loader._task is not None, "it was started"
            await loader._task

        asyncio.run(run())

    def loader(self, **settings: Any) -> Loader:
        chosen = Settings(model_repository=self.folder / "models", cache_dir=self.folder / "cache", **settings)
        return Loader(chosen, "cpu", self.audience, self.folder / "runtime", self.compiler)
