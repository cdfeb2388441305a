"""One version of a model to bring to service, as values: what is to be done, and what the compiler is given.

Pure. `loading.py` makes jobs and does them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

from compiler.cache import Cache
from compiler.spec import Options, Source
from service.repository.model_config import ModelConfig
from service.repository.storage import FoundModel


@dataclass(frozen=True, slots=True)
class Job:
    """One version to bring to service; `startup` is what it does until it is compiled.

    `is_beside`: an earlier artifact serves meanwhile. Once `given_up` is set, nothing more is made or told of it.
    """

    model: FoundModel
    version: str
    config: ModelConfig
    startup: Literal["wait", "fallback"]
    trust_all: bool
    is_beside: bool = False
    given_up: threading.Event = field(default_factory=threading.Event, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.config.name, self.version

    def __str__(self) -> str:
        return f"model {self.config.name} version {self.version}"


@dataclass(frozen=True, slots=True)
class Order:
    """A version as the compiler takes it; the cache knows what was shipped with it, `config` where its steps are."""

    source: Source
    options: Options
    cache: Cache
    config: ModelConfig
