"""What the loader made reaches every engine, and what the engines answer reaches logs, metrics and frontends."""

import logging
from pathlib import Path

import pytest

from service.deployment import Deployment
from service.engine.messages import EngineAddress, Load, Loaded, LoadFailed, Unload, Unloaded
from service.observe.adding import series
from service.observe.metrics import BY_NAME
from service.observe.store import process_store
from service.repository.catalog import Entry, State
from tests.fakes import entry

KEY = ("double", "1")


class Stage:
    """A deployment whose engines are lists of what they were told."""

    def __init__(self, *devices: str) -> None:
        self.sent: list[tuple[int, Load]] = []
        self.published: list[tuple[str, str, int]] = []
        self.deployment = Deployment(devices, self.send, self.publish)
        for slot, device in enumerate(devices):
            self.deployment.orders(slot)
            self.deployment.started(slot, EngineAddress(device, f"/run/{slot}", 1))
        self.deployment.announced(entry(state=State.LOADING, backend="", precision=""))

    def send(self, slot: int, message: Load | Unload) -> None:
        if isinstance(message, Load):
            self.sent.append((slot, message))

    def publish(self) -> None:
        snapshot = self.deployment.snapshot()
        for found in snapshot.entries:
            self.published.append((found.state, found.backend, len(snapshot.engines)))

    def offer(self, backend: str, *, is_final: bool) -> int:
        """Its generation."""
        self.deployment.offered(entry(backend=backend), Path("/cache") / backend, is_final=is_final)
        return self.sent[-1][1].generation

    def load(self, slot: int, generation: int) -> None:
        self.deployment.answered(slot, Loaded(*KEY, generation, 0.5))

    @property
    def entry(self) -> Entry:
        return self.deployment.catalog.entry(*KEY)


def metric(name: str, **labels: str) -> float:
    declared = BY_NAME[name.removesuffix("_total")]
    values = {"model": "double", "version": "1", **labels}
    return series(process_store(), declared, *(values[label] for label in declared.labels)).get() * declared.scale


def info(backend: str) -> float:
    return metric("torchere_model_info", backend=backend, precision="fp32", variant="", device="cpu")


def test_every_engine_is_told_and_frontends_learn_when_all_have_it() -> None:
    stage = Stage("cuda:0", "cuda:1")
    generation = stage.offer("eager", is_final=False)
    assert [(slot, load.folder) for slot, load in stage.sent] == [(0, "/cache/eager"), (1, "/cache/eager")]
    stage.load(0, generation)
    assert stage.published[-1] == ("LOADING", "eager", 2)
    assert stage.deployment.is_loading
    stage.load(1, generation)
    assert stage.published[-1] == ("READY", "eager", 2)
    assert not stage.deployment.is_loading


def test_an_artifact_that_was_swapped_out_is_let_go_when_no_engine_may_need_it() -> None:
    stage, left = Stage("cuda:0", "cuda:1"), list[str]()
    stage.deployment.let_go = left.append
    fallback = stage.offer("eager", is_final=False)
    stage.load(0, fallback)
    stage.load(1, fallback)
    winner = stage.offer("inductor", is_final=True)
    stage.load(0, winner)
    assert left == [], "the other engine may die, and load what was before"
    stage.load(1, winner)
    assert left == ["/cache/eager"]
    stage.deployment.removed(KEY, None)
    assert left == ["/cache/eager", "/cache/inductor"]


def test_a_version_that_leaves_while_its_old_contract_does_is_waited_for() -> None:
    stage = Stage("cuda:0", "cuda:1")
    contract, version = stage.deployment.unload(KEY, keep=2), stage.deployment.unload(KEY)
    for slot, expected in ((0, (False, False)), (1, (True, False)), (0, (True, False)), (1, (True, True))):
        stage.deployment.answered(slot, Unloaded(*KEY))
        assert (contract.is_set(), version.is_set()) == expected
    contract, version = stage.deployment.unload(KEY, keep=3), stage.deployment.unload(KEY)
    stage.deployment.died(0)
    stage.deployment.died(1)
    assert contract.is_set()
    assert version.is_set()


def test_a_swap_shows_in_metrics_and_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage("cpu")
    swaps = {"from_backend": "eager", "to_backend": "inductor"}
    before = metric("torchere_fallback_total"), metric("torchere_swaps_total", **swaps)
    seconds = metric("torchere_fallback_seconds_total")
    stage.deployment.count_seconds(1.0)
    stage.load(0, stage.offer("eager", is_final=False))
    assert (info("eager"), metric("torchere_model_optimised"), metric("torchere_model_ready")) == (1, 0, 1)
    stage.deployment.count_seconds(2.0)
    stage.load(0, stage.offer("inductor", is_final=True))
    stage.deployment.count_seconds(4.0)
    assert (info("eager"), info("inductor"), metric("torchere_model_optimised")) == (0, 1, 1)
    assert metric("torchere_fallback_total") == before[0] + 1
    assert metric("torchere_swaps_total", **swaps) == before[1] + 1
    assert metric("torchere_fallback_seconds_total") == pytest.approx(seconds + 2.0)
    assert [record.getMessage() for record in caplog.records] == [
        "model double version 1 is ready: eager fp32 from cache",
        "model double version 1: inductor fp32 serves now in place of eager fp32",
    ]


def test_a_winner_that_cannot_be_loaded_is_told(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage("cpu")
    stage.load(0, stage.offer("eager", is_final=False))
    stage.deployment.answered(0, LoadFailed(*KEY, stage.offer("tensorrt", is_final=True), "out of memory"))
    assert (stage.entry.state, stage.entry.optimization, stage.entry.backend) == ("READY", "fallback", "eager")
    assert "tensorrt fp32 could not be loaded on cpu: out of memory; eager fp32 stays" in caplog.text


def test_a_compilation_that_fails_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage("cpu")
    stage.load(0, stage.offer("eager", is_final=False))
    stage.deployment.failed(KEY, "no backend is left")
    assert [record.getMessage() for record in caplog.records] == [
        "model double version 1 could not be compiled: no backend is left; eager fp32 goes on serving"
    ]
    alone = Stage("cpu")
    caplog.clear()
    alone.deployment.failed(KEY, "no backend is left")
    assert [record.getMessage() for record in caplog.records] == [
        "model double version 1 is unavailable: no backend is left"
    ]
    assert alone.entry.state is State.UNAVAILABLE


def test_a_successor_is_told_everything_and_trusted_when_it_has_loaded() -> None:
    stage = Stage("cpu")
    generation = stage.offer("eager", is_final=False)
    stage.load(0, generation)
    stage.deployment.died(0)
    assert stage.published[-1] == ("LOADING", "eager", 0)
    assert [load.generation for load in stage.deployment.orders(0)] == [generation]
    stage.deployment.started(0, EngineAddress("cpu", "/run/0", 2))
    stage.load(0, generation)
    assert stage.published[-1] == ("READY", "eager", 1)
