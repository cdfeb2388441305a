"""An engine loads beside what it serves: the new artifact takes over, one that is broken changes nothing."""

import queue
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from msgspec import structs
from safetensors.torch import save_file

from compiler.manifest import Candidate, Manifest, write_manifest
from compiler.package import MODEL_FOLDER
from compiler.spec import Target
from service.engine.messages import Configure, Failure, Infer, Load, Loaded, LoadFailed, Result, Unload, Unloaded
from service.engine.worker import Engine
from service.observe.store import Store
from service.repository.scheduling import Ensemble, EnsembleStep
from service.statistics import Statistics
from tests.fakes import FakeConnection, entry

TIMEOUT_S = 60.0  # the first call of torch on a busy machine
MODEL = """
import torch

class Times(torch.nn.Module):
    def forward(self, x):
        if (x == 13).any():
            raise ValueError("thirteen")
        return {{"y": {factor} * x}}

def create_model():
    return Times()
"""


class FakeLink:
    """The parent's end: `next()` is what the engine says next."""

    def __init__(self) -> None:
        self._said: queue.Queue[msgspec.Struct] = queue.Queue()

    def send(self, message: msgspec.Struct) -> None:
        self._said.put(message)

    def next(self) -> msgspec.Struct:
        return self._said.get(timeout=TIMEOUT_S)


def artifact(folder: Path, factor: float) -> Path:
    """An eager artifact that multiplies by `factor`."""
    described = entry()
    model = folder / MODEL_FOLDER
    model.mkdir(parents=True)
    (model / "model.py").write_text(MODEL.format(factor=factor))
    manifest = Manifest(
        key=folder.name,
        key_parts={},
        target=Target("cpu", "test", (), "0", None, "Linux", "3"),
        backend="eager",
        precision="fp32",
        inputs=described.inputs,
        outputs=described.outputs,
        max_batch_size=described.max_batch_size,
        buckets=described.buckets,
        ladder=(Candidate("eager", "fp32", "chosen", milliseconds={1: 1.0}),),
        files=(),
        stage_seconds={},
        created="2026-01-01T00:00:00+00:00",
    )
    write_manifest(manifest, folder)
    return folder


class Bench:
    """An engine on the CPU, told what to load as the parent tells it."""

    def __init__(self, folder: Path) -> None:
        self.link = FakeLink()
        self.connection = FakeConnection()
        self._folder = folder
        configure = Configure("human", "error", "cpu", 1, str(folder / "socket"))
        self.engine = Engine(configure, self.link, Store(folder), arrival_s=0.0)  # type: ignore[arg-type]

    def load(self, generation: int, factor: float | None, contract: int = 0) -> msgspec.Struct:
        """The engine's answer to an artifact that multiplies by `factor`, or to a broken one."""
        folder = self._folder / str(generation)
        if factor is not None:
            artifact(folder, factor)
        self.engine.order(Load(entry(contract=contract), str(folder), generation))
        return self.link.next()

    def unload(self, keep: int = 0) -> msgspec.Struct:
        self.engine.order(Unload("double", "1", keep))
        return self.link.next()

    def ask(self, identity: int, contract: int = 0) -> None:
        data = np.ones((1, 3), np.float32).tobytes()
        message = Infer(identity, "double", "1", 1, ((1, 3),), (len(data),), contract=contract)
        self.engine.handle(message, memoryview(data), self.connection)  # type: ignore[arg-type]

    def values(self) -> dict[int, float]:
        """The first value of each answer, once everything that waits is answered."""
        self.engine.close()
        found = {}
        for identity, (message, blobs) in self.connection.answers.items():
            assert isinstance(message, Result), message
            found[identity] = float(np.frombuffer(blobs[0], np.float32)[0])
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_winner_takes_over_from_the_fallback(bench: Bench) -> None:
    first = bench.load(1, factor=2.0)
    assert isinstance(first, Loaded)
    assert (first.name, first.version, first.generation) == ("double", "1", 1)
    bench.ask(1)
    second = bench.load(2, factor=3.0)
    assert isinstance(second, Loaded)
    assert second.generation == 2
    bench.ask(2)
    assert bench.values() in ({1: 2.0, 2: 3.0}, {1: 3.0, 2: 3.0})


def test_a_winner_that_cannot_be_loaded_changes_nothing(bench: Bench) -> None:
    bench.load(1, factor=2.0)
    answer = bench.load(2, factor=None)
    assert isinstance(answer, LoadFailed)
    assert answer.generation == 2
    assert "FileNotFoundError" in answer.reason
    bench.ask(1)
    assert bench.values() == {1: 2.0}


def test_orders_are_answered_one_after_the_other(bench: Bench) -> None:
    for generation in (1, 2, 3):
        artifact(bench._folder / str(generation), float(generation))
        bench.engine.order(Load(entry(), str(bench._folder / str(generation)), generation))
    answers = [bench.link.next() for _ in range(3)]
    assert [answer.generation for answer in answers if isinstance(answer, Loaded)] == [1, 2, 3]
    bench.ask(1)
    assert bench.values() == {1: 3.0}


def test_two_contracts_are_served_beside_each_other_until_one_is_let_go(bench: Bench) -> None:
    bench.load(1, factor=2.0, contract=1)
    bench.load(2, factor=3.0, contract=2)
    bench.ask(1, contract=1)
    bench.ask(2, contract=2)
    assert bench.unload(keep=2) == Unloaded("double", "1")
    bench.ask(3, contract=1)
    bench.ask(4, contract=2)
    answer, _ = bench.connection.answers.pop(3)
    assert isinstance(answer, Failure)
    assert (answer.code, "is not loaded" in answer.message) == ("not_loaded", True)
    assert bench.values() == {1: 2.0, 2: 3.0, 4: 3.0}


def test_what_waits_is_answered_before_a_version_is_let_go(bench: Bench) -> None:
    bench.load(1, factor=2.0, contract=1)
    for identity in range(20):
        bench.ask(identity, contract=1)
    assert bench.unload() == Unloaded("double", "1")
    assert bench.values() == dict.fromkeys(range(20), 2.0)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (torch.ones(11, 3), ""),
        (torch.tensor([[1.0, 2, 3], [1, 13, 3]]), "fails on its warm_up.safetensors: ValueError: thirteen"),
        (torch.ones(2, 4), "warm_up.safetensors has 'x' as FP32[2, 4]"),
    ],
)
def test_a_model_is_loaded_once_it_has_answered_its_own_warm_up(
    bench: Bench, rows: torch.Tensor, sentence: str, tmp_path: Path
) -> None:
    folder = artifact(tmp_path / "1", 2.0)
    save_file({"x": rows}, folder / "warm_up.safetensors")
    bench.engine.order(Load(entry(), str(folder), 1))
    answer = bench.link.next()
    assert isinstance(answer, LoadFailed) == bool(sentence)
    assert not sentence or sentence in answer.reason  # type: ignore[attr-defined]
    bench.engine.close()


def test_an_engine_that_leaves_has_counted_everything(bench: Bench, tmp_path: Path) -> None:
    bench.load(1, factor=2.0)
    for identity in range(50):  # the first is counted at once, as nothing was for long
        bench.ask(identity)
    assert len(bench.values()) == 50
    assert Statistics(tmp_path).read()["double", "1", 0].inference_count == 50


def test_what_is_loaded_is_found_by_name(bench: Bench) -> None:
    assert bench.engine.lookup("double") is None
    bench.load(1, factor=2.0, contract=1)
    bench.load(2, factor=3.0, contract=2)
    found = bench.engine.lookup("double")
    assert found is not None
    assert (found.entry.version, found.entry.contract) == ("1", 2)
    assert bench.engine.lookup("double", "1") is found
    assert bench.engine.lookup("double", "2") is None
    bench.unload()
    assert bench.engine.lookup("double") is None


def test_an_ensemble_calls_what_is_loaded_beside_it(bench: Bench) -> None:
    steps = (EnsembleStep("double", {"x": "x"}, {"y": "once"}), EnsembleStep("double", {"x": "once"}, {"y": "y"}))
    bench.engine.order(Load(entry(name="twice", ensemble=Ensemble(steps)), "", 1))
    answer = bench.link.next()
    assert isinstance(answer, Loaded), "its models may come later"
    bench.load(2, factor=3.0)
    data = np.ones((1, 3), np.float32).tobytes()
    message = Infer(1, "twice", "1", 1, ((1, 3),), (len(data),))
    bench.engine.handle(message, memoryview(data), bench.connection)  # type: ignore[arg-type]
    while 1 not in bench.connection.answers:
        pass
    bench.load(3, factor=5.0)
    bench.engine.order(Load(entry(name="twice", description="other words", ensemble=Ensemble(steps)), "", 4))
    assert isinstance(bench.link.next(), Loaded), "other words are no other steps"
    bench.engine.handle(structs.replace(message, id=2), memoryview(data), bench.connection)  # type: ignore[arg-type]
    while 2 not in bench.connection.answers:
        pass
    assert bench.values() == {1: 9.0, 2: 25.0}
