"""Loading and unloading while others serve: the order of the steps, and what a client is told when one fails."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from service.describe import not_loaded
from service.engine.messages import LoadModel, UnloadModel
from service.errors import InvalidInput, NotFound, ServiceError
from service.repository.uploads import write_upload
from tests.service.controlled import CONFIG, Bench, run, until


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


def test_to_unload_waits_for_nothing_that_is_being_made_or_shall_be(tmp_path: Path) -> None:
    """A compilation may take an hour."""

    async def scenario(bench: Bench) -> None:
        bench.add("m", "1")
        await bench.control.load(LoadModel("m"))
        bench.is_slow = True
        reloads = [asyncio.create_task(bench.control.load(LoadModel("m"))) for _ in range(2)]
        await until(lambda: len(bench.began) == 2)
        await bench.control.unload(UnloadModel("m"))
        for told in await asyncio.gather(*reloads, return_exceptions=True):
            assert isinstance(told, InvalidInput)
            assert str(told).endswith("was not loaded: it was unloaded meanwhile"), told
        assert (bench.states(), len(bench.began)) == ({"m/1": "UNAVAILABLE"}, 2)
        bench.is_slow = False
        await bench.control.load(LoadModel("m"))
        assert bench.states() == {"m/1": "READY"}

    run(tmp_path, scenario)


def test_what_takes_long_to_compile_keeps_no_other_model_from_being_followed(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.add("slow", "1")
        bench.add("gone", "1")
        for name in ("slow", "gone"):
            await bench.control.load(LoadModel(name))
        looks, look = [], bench.control._look
        bench.control._look = lambda: looks.append(1) or look()  # type: ignore[func-returns-value, method-assign]
        following = asyncio.create_task(bench.control.poll())
        await until(lambda: len(looks) == 2)
        bench.is_slow = True
        (bench.repository / "slow/model.yaml").write_text(CONFIG + "description: another\n")
        await until(lambda: len(bench.began) == 3)
        bench.is_slow = False
        shutil.rmtree(bench.repository / "gone")
        bench.add("new", "1")
        await until(lambda: bench.states() == {"slow/1": "READY", "new/1": "READY"})
        following.cancel()

    run(tmp_path, scenario, poll_interval_s=0.1)


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
