"""Model control without engines or builders: what it orders is noted, and answered as the test says. Not a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

from service.deployment import Deployment
from service.describe import entry_of
from service.engine.messages import EngineAddress, Load, Loaded, LoadFailed, Unload, Unloaded
from service.model_control import ModelControl
from service.repository.catalog import State
from service.repository.storage import FoundModel
from service.settings import Settings
from tests.fakes import entry

CONFIG = """
trust: true
max_batch_size: 8
inputs:
  - {name: x, datatype: FP32, shape: [-1, 3]}
"""


BOTH = """
ensemble:
  steps:
    - {model: one, inputs: {x: in}, outputs: {y: middle}}
    - {model: two, inputs: {x: middle}, outputs: {y: out}}
"""


class Bench:
    """A repository, a deployment on one engine that answers at once, and a loader that offers what it is told to."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.steps: list[str] = []
        self.refuses: set[str] = set()  # versions that the engine cannot load
        self.fails: set[str] = set()  # versions that cannot be compiled
        self.began: list[FoundModel] = []
        self.is_slow = False  # nothing comes of what is begun
        self.repository, self.runtime = folder / "models", folder / "runtime"
        self.runtime.mkdir()
        self.deployment = Deployment(
            ("cpu",), self.send, lambda: None, lambda key, keep: self.control.retire(key, keep)
        )
        self.deployment.orders(0)
        self.deployment.started(0, EngineAddress("cpu", "/run/0", 1))
        chosen = Settings(model_repository=self.repository, cache_dir=folder / "cache", **settings)
        self.control = ModelControl(chosen, self, self.deployment, self.everyone_follows, self.runtime)

    def add(self, name: str, *versions: str, config: str = CONFIG) -> None:
        for version in versions or (".",):
            (self.repository / name / version).mkdir(parents=True, exist_ok=True)
        (self.repository / name / "model.yaml").write_text(config)

    # What the deployment asks.

    def send(self, slot: int, message: Load | Unload) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(message, Unload):
            self.steps.append(f"engine lets go of {message.name}/{message.version} but {message.keep}")
            loop.call_soon(self.deployment.answered, slot, Unloaded(message.name, message.version))
        elif message.entry.version in self.refuses:
            failed = LoadFailed(message.entry.name, message.entry.version, message.generation, "out of memory")
            loop.call_soon(self.deployment.answered, slot, failed)
        else:
            loaded = Loaded(message.entry.name, message.entry.version, message.generation, 0.1)
            loop.call_soon(self.deployment.answered, slot, loaded)

    async def everyone_follows(self) -> None:
        states = [f"{each.name}/{each.version} {each.state}" for each in self.deployment.catalog.entries()]
        self.steps.append(f"everyone knows {', '.join(states)}")

    # What the control asks of the loader.

    def begin(self, model: FoundModel, beside: Collection[str]) -> None:
        self.began.append(model)
        assert model.config is not None
        for version in model.versions:
            if version in beside:
                self.deployment.reloading((model.name, version))
            else:
                self.deployment.announced(entry_of(model.config, version, State.LOADING, "waiting"))
            if not self.is_slow:
                asyncio.get_running_loop().call_soon(self._made, model, version)

    def _made(self, model: FoundModel, version: str) -> None:
        assert model.config is not None
        if version in self.fails:
            self.deployment.failed((model.name, version), f"{self.repository}/{model.name}/{version} is broken")
            return
        if model.config.ensemble is not None:
            self.deployment.composed(model.config, version)
            return
        size = model.config.max_batch_size or 0
        offered = entry(name=model.name, version=version, max_batch_size=size, buckets=(1, size))
        self.deployment.offered(offered, Path(f"/cache/{len(self.began)}"), is_final=True)

    def give_up(self, name: str) -> None:
        self.steps.append(f"give up {name}")

    def states(self) -> dict[str, str]:
        return {f"{each.name}/{each.version}": each.state for each in self.deployment.catalog.entries()}


async def until(holds: Callable[[], bool]) -> None:
    """Return as soon as it does."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.to_thread(lambda: None)


def run(folder: Path, scenario: Callable[[Bench], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        await scenario(Bench(folder, model_control_mode="explicit", **settings))

    asyncio.run(main())
