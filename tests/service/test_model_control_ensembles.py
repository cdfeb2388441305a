"""Ensembles while the service runs: they come with their models, follow them, and go when nobody asked for them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from service.control import Control
from service.engine.messages import EngineAddress, LoadModel, UnloadModel
from service.errors import InvalidInput
from service.plane import Plane
from service.repository.overrides import read_override
from service.repository.uploads import write_upload
from tests.fakes import FakeCounter, FakeEngines
from tests.service.controlled import BOTH, Bench, run


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
