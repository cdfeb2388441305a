"""Loading and unloading while others serve: the order of the steps, and what a client is told when one fails."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from service.control import Control
from service.deployment import Deployment
from service.describe import entry_of, not_loaded
from service.engine.messages import EngineAddress, Load, Loaded, LoadFailed, LoadModel, Unload, Unloaded, UnloadModel
from service.errors import InvalidInput, NotFound, ServiceError
from service.model_control import ModelControl
from service.plane import Plane
from service.repository.catalog import State
from service.repository.overrides import read_override
from service.repository.storage import FoundModel
from service.repository.uploads import write_upload
from service.settings import Settings
from tests.fakes import FakeCounter, FakeEngines, entry

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


def run(folder: Path, scenario: Callable[[Bench], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        await scenario(Bench(folder, model_control_mode="explicit", **settings))

    asyncio.run(main())


def test_a_model_is_loaded_reloaded_and_unloaded_in_order(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        await bench.control.load(LoadModel("m"))
        assert bench.states() == {"m/1": "READY"}
        await bench.control.load(LoadModel("m"))
        assert bench.states() == {"m/1": "READY"}
        assert not [step for step in bench.steps if "lets go" in step], "the requests are the same: runners are swapped"
        bench.steps.clear()
        await bench.control.unload(UnloadModel("m"))
        assert bench.steps == ["give up m", "everyone knows m/1 UNLOADING", "engine lets go of m/1 but 0"]
        found = bench.deployment.catalog.entry("m", "1")
        assert (found.state, found.reason, found.is_awaited) == ("UNAVAILABLE", "unloaded", False)
        await bench.control.load(LoadModel("m"))
        assert bench.states() == {"m/1": "READY"}

    run(tmp_path, scenario)


def test_other_requests_are_another_contract_and_the_old_one_is_let_go_when_nobody_sends_to_it(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        await bench.control.load(LoadModel("m"))
        first = bench.deployment.catalog.entry("m").contract
        bench.steps.clear()
        await bench.control.load(LoadModel("m", '{"max_batch_size": 4}'))
        found = bench.deployment.catalog.entry("m")
        assert found.max_batch_size == 4
        assert found.contract > first
        for _ in range(5):
            await asyncio.sleep(0)
        assert f"engine lets go of m/1 but {found.contract}" in bench.steps
        assert bench.steps.index("everyone knows m/1 READY") < bench.steps.index(
            f"engine lets go of m/1 but {found.contract}"
        )

    run(tmp_path, scenario)


@pytest.mark.parametrize("where", ["refuses", "fails"])
def test_a_failed_reload_leaves_what_serves(tmp_path: Path, where: str) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        await bench.control.load(LoadModel("m"))
        before = bench.deployment.catalog.entry("m")
        getattr(bench, where).add("1")
        with pytest.raises(InvalidInput, match=r"version 1 was not loaded: .*; what served before serves on") as caught:
            await bench.control.load(LoadModel("m", '{"max_batch_size": 4}'))
        assert str(bench.repository) not in str(caught.value)
        found = bench.deployment.catalog.entry("m")
        assert (found.state, found.max_batch_size, found.contract) == ("READY", 8, before.contract)
        getattr(bench, where).clear()
        await bench.control.load(LoadModel("m", '{"max_batch_size": 4}'))
        assert bench.deployment.catalog.entry("m").max_batch_size == 4

    run(tmp_path, scenario)


@pytest.mark.parametrize("where", ["refuses", "fails"])
def test_a_first_load_that_fails_says_why_and_may_be_tried_again(tmp_path: Path, where: str) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        getattr(bench, where).add("1")
        with pytest.raises(InvalidInput, match="was not loaded: ") as caught:
            await bench.control.load(LoadModel("m"))
        assert "serves on" not in str(caught.value)
        assert bench.states() == {"m/1": "UNAVAILABLE"}
        getattr(bench, where).clear()
        await bench.control.load(LoadModel("m"))
        assert bench.states() == {"m/1": "READY"}

    run(tmp_path, scenario)


def test_versions_that_the_policy_leaves_go_when_their_successors_serve(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        await bench.control.load(LoadModel("m"))
        bench.add("m", "2")
        bench.steps.clear()
        await bench.control.load(LoadModel("m"))
        assert bench.states() == {"m/2": "READY"}
        assert bench.steps[0].startswith("everyone knows m/1 READY, m/2 READY")
        bench.fails.add("3")
        bench.add("m", "3")
        with pytest.raises(InvalidInput):
            await bench.control.load(LoadModel("m"))
        assert bench.states() == {"m/2": "READY", "m/3": "UNAVAILABLE"}

    run(tmp_path, scenario)


@pytest.mark.parametrize("name", ["nobody", "../m", ""])
def test_an_unknown_model_is_not_found(tmp_path: Path, name: str) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        with pytest.raises(NotFound):
            await bench.control.load(LoadModel(name))
        with pytest.raises(NotFound):
            await bench.control.unload(UnloadModel(name))

    run(tmp_path, scenario)


def test_a_service_of_some_models_loads_no_others(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        with pytest.raises(NotFound):
            await bench.control.load(LoadModel("m"))

    run(tmp_path, scenario, models=("other",))


def test_a_configuration_that_cannot_be_is_refused_without_the_folder(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1", config="max_batch_size: many\n")
        with pytest.raises(InvalidInput, match=r"m/model\.yaml:1") as caught:
            await bench.control.load(LoadModel("m"))
        assert str(tmp_path) not in str(caught.value)
        assert bench.began == []

    run(tmp_path, scenario)


def test_uploads_are_trusted_by_nobody_and_last_as_long_as_they_serve(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        files = {"1/model.safetensors": b"weights", "model.yaml": CONFIG.encode()}
        first, second, bad = (write_upload(bench.runtime, "m", files) for _ in range(3))
        await bench.control.load(LoadModel("m", "{}", str(first)))
        assert bench.began[-1].is_upload
        config = bench.began[-1].config
        assert config is not None
        assert config.trust is False
        assert exists(first)
        bench.fails.add("1")
        with pytest.raises(InvalidInput):
            await bench.control.load(LoadModel("m", "{}", str(bad)))
        assert [exists(first), exists(bad)] == [True, False]
        bench.fails.clear()
        await bench.control.load(LoadModel("m", "{}", str(second)))
        assert [exists(first), exists(second)] == [False, True]
        await bench.control.load(LoadModel("m"))
        assert [exists(second), bench.began[-1].is_upload] == [False, False]
        with pytest.raises(InvalidInput, match="not where they should be"):
            await bench.control.load(LoadModel("m", "{}", str(bench.repository)))
        assert exists(bench.repository)

    run(tmp_path, scenario)


def exists(path: Path) -> bool:
    return path.exists()


def test_what_clients_were_told_of_tensors_is_no_change(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        await bench.control.load(LoadModel("m"))
        told = '{"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}], "instances": 2}'
        await bench.control.load(LoadModel("m", told))
        config = bench.began[-1].config
        assert config is not None
        assert (config.outputs, config.instances) == (None, 2)

    run(tmp_path, scenario)


def test_what_is_loaded_at_the_start_depends_on_the_mode(tmp_path: Path) -> None:
    def wanted(**settings: Any) -> Collection[str] | None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return Bench(folder, **settings).control.wanted_at_start

    assert wanted() is None
    assert wanted(model_control_mode="poll") is None
    assert wanted(model_control_mode="explicit") == ()
    assert wanted(model_control_mode="explicit", load_model=("m",)) == ("m",)
    assert wanted(model_control_mode="explicit", load_model=("*",)) is None


def test_what_nobody_asked_for_keeps_no_service_from_being_ready(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.deployment.announced(not_loaded("m", "1", "not loaded"))
        assert bench.deployment.catalog.is_ready
        bench.add("m", "1")
        await bench.control.load(LoadModel("m"))
        assert bench.deployment.catalog.is_ready
        bench.deployment.died(0)
        assert not bench.deployment.catalog.is_ready, "what served is missed"

    run(tmp_path, scenario)


def test_an_ensemble_comes_with_its_models_and_goes_with_those_that_nobody_asked_for(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("one", "1")
        bench.add("two", "1")
        bench.add("both", config=BOTH)
        await bench.control.load(LoadModel("two"))
        await bench.control.load(LoadModel("both"))
        assert bench.states() == {"both/1": "READY", "one/1": "READY", "two/1": "READY"}
        assert [model.name for model in bench.began] == ["two", "one", "both"]
        found = bench.deployment.catalog.entry("both")
        assert ([spec.name for spec in found.inputs], found.max_batch_size) == (["in"], 8)
        await bench.control.unload(UnloadModel("both"))
        assert bench.states() == {"both/1": "UNAVAILABLE", "one/1": "READY", "two/1": "READY"}
        await bench.control.load(LoadModel("both"))
        await bench.control.unload(UnloadModel("both", with_members=True))
        assert bench.states() == {"both/1": "UNAVAILABLE", "one/1": "UNAVAILABLE", "two/1": "READY"}
        await bench.control.load(LoadModel("both"))
        assert set(bench.states().values()) == {"READY"}

    run(tmp_path, scenario)


def test_an_ensemble_without_its_models_is_not_loaded(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("one", "1")
        bench.add("both", config=BOTH)
        with pytest.raises(InvalidInput, match="'both' cannot be loaded: it calls an unknown model 'two'"):
            await bench.control.load(LoadModel("both"))
        bench.add("two", "1")
        bench.add("both", config=BOTH.replace("y: out", "z: out"))
        with pytest.raises(InvalidInput, match="model 'two' has no output 'z': its outputs are y"):
            await bench.control.load(LoadModel("both"))
        bench.add("both", config=BOTH)
        await bench.control.load(LoadModel("both"))
        bench.add("both", config=BOTH.replace("model: two", "model: one").replace("{x: middle}", "{z: middle}"))
        with pytest.raises(InvalidInput, match="'one' has no input 'z': its inputs are x; what served before serves"):
            await bench.control.load(LoadModel("both"))
        assert bench.states()["both/1"] == "READY"

    run(tmp_path, scenario)


def test_an_ensemble_is_ready_while_its_models_are_and_follows_them(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("one", "1")
        bench.add("two", "1")
        bench.add("both", config=BOTH)
        await bench.control.load(LoadModel("both"))
        first = bench.deployment.catalog.entry("both")
        await bench.control.load(LoadModel("two", '{"max_batch_size": 4}'))
        for _ in range(5):
            await asyncio.sleep(0)
        found = bench.deployment.catalog.entry("both")
        assert (found.state, found.max_batch_size) == ("READY", 4)
        assert found.contract > first.contract
        assert found.artifact != first.artifact
        assert f"engine lets go of both/1 but {found.contract}" in bench.steps
        await bench.control.unload(UnloadModel("one"))
        found = bench.deployment.catalog.entry("both")
        assert (found.state, found.reason) == (
            "UNAVAILABLE",
            "its model 'one' version 1 is unavailable: unloaded",
        )
        await bench.control.load(LoadModel("one"))
        assert bench.states()["both/1"] == "READY"

    run(tmp_path, scenario)


def test_an_ensemble_that_is_loaded_as_it_was_stays_as_it_is(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("one", "1")
        bench.add("two", "1")
        bench.add("both", config=BOTH)
        await bench.control.load(LoadModel("both"))
        before = bench.deployment.catalog.entry("both")
        await bench.control.load(LoadModel("both"))
        assert bench.deployment.catalog.entry("both") == before
        bench.add("both", config=BOTH + "description: other words\n")
        await bench.control.load(LoadModel("both"))
        found = bench.deployment.catalog.entry("both")
        assert (found.description, found.contract) == ("other words", before.contract)
        bench.add("both", config=BOTH.replace("model: two", "model: one"))
        await bench.control.load(LoadModel("both"))
        assert bench.deployment.catalog.entry("both").contract > before.contract, "what is run is another"

    run(tmp_path, scenario)


def test_an_engine_that_starts_again_is_told_of_ensembles_too(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("one", "1")
        bench.add("two", "1")
        bench.add("both", config=BOTH)
        await bench.control.load(LoadModel("both"))
        bench.deployment.died(0)
        assert bench.states()["both/1"] == "LOADING"
        for order in bench.deployment.orders(0):
            bench.send(0, order)
        bench.deployment.started(0, EngineAddress("cpu", "/run/0", 2))
        for _ in range(5):
            await asyncio.sleep(0)
        assert set(bench.states().values()) == {"READY"}

    run(tmp_path, scenario)


def test_an_ensemble_may_come_with_the_call_and_in_the_words_of_its_configuration(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("one", "1")
        bench.add("two", "1")
        bench.add("both", config=BOTH)
        await bench.control.load(LoadModel("both", "{}"))
        plane = Plane(FakeEngines(), FakeCounter())
        plane.catalog = bench.deployment.catalog
        told = Control(plane).model_config("both")
        before = bench.deployment.catalog.entry("both")
        await bench.control.load(LoadModel("both", json.dumps(read_override("both", json.dumps(told)))))
        assert bench.deployment.catalog.entry("both") == before, "what clients were told is no change"
        told["ensemble_scheduling"]["step"].pop()
        told["output"] = []
        await bench.control.load(LoadModel("both", json.dumps(read_override("both", json.dumps(told)))))
        assert [spec.name for spec in bench.deployment.catalog.entry("both").outputs] == ["middle"]
        upload = write_upload(bench.runtime, "both", {"model.yaml": BOTH.replace("out}", "other}").encode()})
        await bench.control.load(LoadModel("both", "{}", str(upload)))
        assert [spec.name for spec in bench.deployment.catalog.entry("both").outputs] == ["other"]

    run(tmp_path, scenario)


@pytest.mark.parametrize("seed", range(3))
def test_loads_and_unloads_from_all_sides_end_in_a_state_that_somebody_asked_for(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    async def scenario(bench: Bench) -> None:
        for name in "abc":
            bench.add(name, "1")

        async def one() -> None:
            name = chance.choice("abc")
            if chance.random() < 0.6:
                await bench.control.load(LoadModel(name, chance.choice(["", '{"max_batch_size": 4}'])))
            else:
                await bench.control.unload(UnloadModel(name))

        outcomes = await asyncio.wait_for(asyncio.gather(*[one() for _ in range(60)], return_exceptions=True), 30)
        strange = [each for each in outcomes if each is not None and not isinstance(each, ServiceError)]
        assert not strange
        assert set(bench.states().values()) <= {"READY", "UNAVAILABLE"}
        for name in "abc":
            await bench.control.load(LoadModel(name))
        assert bench.states() == {"a/1": "READY", "b/1": "READY", "c/1": "READY"}

    run(tmp_path, scenario)
