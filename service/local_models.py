"""The versions of a repository as the compiler takes them: source, options, and the cache with what came along.

Knows nothing of serving. `precompile.py` compiles them and `show.py` looks them up, with the keys that a server has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compiler.cache import Cache
from compiler.errors import CompileError
from compiler.shipping import with_shipped
from compiler.spec import Options, Source, Target
from compiler.target import detect_devices, detect_target
from service.repository.model_config import to_options
from service.repository.storage import FoundModel, scan, source_of
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One version. Exactly one of `source` and `error` is there."""

    name: str
    version: str
    source: Source | None
    options: Options
    cache: Cache
    error: str = ""

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}".strip()


def find_target(settings: Settings) -> Target:
    """The machine that artifacts are for. Raises LoadFailed where the device is not there."""
    return detect_target(detect_devices()[0] if settings.device == "auto" else settings.device)


def find_models(settings: Settings) -> Iterator[LocalModel]:
    """Every chosen version of a program, also those that cannot be compiled. Raises RepositoryError.

    To choose an ensemble is to choose its models: it has nothing to compile.
    """
    cache = Cache(settings.cache_dir, settings.cache_max_size)
    for found in scan(settings.model_repository, settings.models):
        if found.config is None:
            yield LocalModel(found.name, "", None, Options(), cache, found.error or "it has no configuration")
            continue
        for version in found.versions if found.config.ensemble is None else ():
            yield _open(found, version, settings, cache)


def _open(found: FoundModel, version: str, settings: Settings, cache: Cache) -> LocalModel:
    assert found.config is not None, "asked for only where there is one"
    config = found.config
    options = to_options(config, settings.threads, settings.compile_timeout_s)
    try:
        source = source_of(found, version, settings.trust)
    except CompileError as error:
        return LocalModel(found.name, version, None, options, cache, str(error))
    shipped = with_shipped(cache, source, config.trust or settings.trust)
    return LocalModel(found.name, version, source, options, shipped)
