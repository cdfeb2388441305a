"""A version serves on its fallback, then on the winner, whatever fails or dies on the way; and it is told."""

from service.engine.rollout import Rollout
from service.repository.catalog import Entry, State
from tests.fakes import entry
from tests.service.engine.stage import KEY, Stage


def test_from_nothing_to_the_fallback_to_the_winner() -> None:
    stage = Stage()
    assert stage.status() == ("LOADING", "compiling", "")
    assert stage.entry.reason == "waiting to be compiled"
    eager = stage.offer("eager", is_final=False)
    stage.load(eager)
    assert stage.status() == ("READY", "compiling", "eager")
    assert stage.entry.seconds == 1.5
    stage.rollout.progressed(KEY, "build inductor fp32")
    assert (stage.entry.reason, stage.entry.progress) == ("", "build inductor fp32")
    winner = stage.offer("inductor", is_final=True)
    assert stage.status() == ("READY", "compiling", "eager")
    assert stage.entry.progress == "loading inductor fp32 beside it"
    stage.load(winner)
    assert stage.status() == ("READY", "optimised", "inductor")
    assert (stage.entry.progress, stage.entry.is_on_fallback) == ("", False)
    assert stage.told() == ["nothing -> eager", "eager -> inductor"]


def test_without_a_fallback_it_is_ready_when_the_winner_is() -> None:
    stage = Stage()
    stage.rollout.progressed(KEY, "build inductor fp32")
    assert (stage.entry.state, stage.entry.reason) == (State.LOADING, "compiling: build inductor fp32")
    winner = stage.offer("inductor", is_final=True)
    assert stage.status() == ("LOADING", "", "inductor")
    stage.load(winner)
    assert stage.status() == ("READY", "optimised", "inductor")
    assert stage.told() == ["nothing -> inductor"]


def test_a_winner_that_cannot_be_loaded_is_given_up_with_the_reason() -> None:
    stage = Stage()
    stage.fallback()
    stage.fail(stage.offer("tensorrt", is_final=True))
    assert stage.status() == ("READY", "fallback", "eager")
    assert stage.entry.is_on_fallback
    assert stage.entry.progress == "tensorrt fp32 could not be loaded on cpu: out of memory"
    assert stage.told() == ["nothing -> eager", "tensorrt given up for eager"]
    stage.die()
    assert stage.start(0, 2) == [1], "a successor is not asked again"


def test_a_compilation_that_fails_leaves_the_fallback_serving() -> None:
    stage = Stage()
    stage.fallback()
    stage.rollout.compile_failed(KEY, "no backend is left")
    assert stage.status() == ("READY", "fallback", "eager")
    assert stage.entry.progress == "no backend is left"


def test_a_compilation_that_fails_with_nothing_to_serve() -> None:
    stage = Stage()
    stage.rollout.compile_failed(KEY, "no backend is left")
    assert stage.status() == ("UNAVAILABLE", "", "")
    assert (stage.entry.reason, stage.entry.progress) == ("no backend is left", "")


def test_a_race_that_nobody_passed_is_no_optimisation() -> None:
    stage = Stage()
    stage.fallback()
    stage.load(stage.offer("eager", is_final=True, shortfall="no candidate passed: inductor fp32 failed"))
    assert stage.status() == ("READY", "fallback", "eager")
    assert stage.entry.progress == "no candidate passed: inductor fp32 failed"


def test_a_fallback_that_cannot_be_loaded_is_waited_out() -> None:
    stage = Stage()
    stage.fail(stage.offer("eager", is_final=False))
    assert stage.entry.state is State.LOADING
    assert "until then nothing serves: the engine could not load it: out of memory" in stage.entry.reason
    stage.load(stage.offer("torchscript", is_final=True))
    assert stage.status() == ("READY", "optimised", "torchscript")
    assert stage.told() == ["nothing -> torchscript"]


def test_nothing_can_be_loaded() -> None:
    stage = Stage()
    stage.fail(stage.offer("eager", is_final=False))
    stage.fail(stage.offer("torchscript", is_final=True))
    assert stage.status() == ("UNAVAILABLE", "", "eager")
    assert stage.entry.reason == "the engine could not load it: out of memory"


def test_the_winner_comes_before_the_fallback_is_loaded() -> None:
    stage = Stage()
    eager = stage.offer("eager", is_final=False)
    winner = stage.offer("inductor", is_final=True)
    stage.load(eager)
    assert stage.status() == ("READY", "compiling", "eager")
    stage.load(winner)
    assert stage.told() == ["nothing -> eager", "eager -> inductor"]


def test_an_engine_that_dies_while_it_loads_the_winner_loads_what_was_current_first() -> None:
    stage = Stage()
    eager = stage.fallback()
    winner = stage.offer("inductor", is_final=True)
    stage.die()
    assert (stage.entry.state, stage.entry.reason) == (State.LOADING, "the engine is being restarted")
    assert stage.start(0, 2) == [eager.generation, winner.generation]
    stage.load(eager)
    assert stage.status() == ("READY", "compiling", "eager")
    stage.load(winner)
    assert stage.status() == ("READY", "optimised", "inductor")
    assert stage.told() == ["nothing -> eager", "eager -> inductor"]


def test_a_winner_that_kills_its_engine_twice_is_given_up() -> None:
    stage = Stage()
    eager = stage.fallback()
    winner = stage.offer("inductor", is_final=True)
    stage.die()
    assert stage.start(0, 2) == [eager.generation, winner.generation]
    stage.load(eager)
    stage.die()
    assert stage.start(0, 3) == [eager.generation]
    stage.load(eager)
    assert stage.status() == ("READY", "fallback", "eager")
    assert "died 2 times" in stage.entry.progress


def test_an_engine_that_dies_after_the_swap_loads_the_winner_alone() -> None:
    stage = Stage()
    stage.fallback()
    winner = stage.offer("inductor", is_final=True)
    stage.load(winner)
    stage.die()
    assert stage.start(0, 2) == [winner.generation]
    stage.load(winner)
    assert stage.status() == ("READY", "optimised", "inductor")
    assert stage.entry.seconds == 1.5, "how long it took the first time"


def test_every_engine_swaps_by_itself() -> None:
    stage = Stage("cuda:0", "cuda:1")
    stage.fallback()
    winner = stage.offer("tensorrt", is_final=True)
    stage.load(winner, 0)
    assert stage.status() == ("READY", "compiling", "eager"), "one of two still serves the fallback"
    assert len(stage.rollout.fleet.usable({KEY: 0})) == 2
    stage.load(winner, 1)
    assert stage.status() == ("READY", "optimised", "tensorrt")
    assert stage.told() == ["nothing -> eager", "eager -> tensorrt"]


def test_one_engine_dies_while_the_other_has_swapped() -> None:
    stage = Stage("cuda:0", "cuda:1")
    eager = stage.fallback()
    winner = stage.offer("tensorrt", is_final=True)
    stage.load(winner, 0)
    stage.die(1)
    assert stage.status() == ("READY", "optimised", "tensorrt"), "all that live serve it"
    assert stage.start(1, 2) == [eager.generation, winner.generation]
    stage.load(eager, 1)
    assert stage.status() == ("READY", "optimised", "tensorrt")
    stage.load(winner, 1)
    assert stage.told() == ["nothing -> eager", "eager -> tensorrt"]


def test_a_device_without_the_winner_is_named() -> None:
    stage = Stage("cuda:0", "cuda:1")
    eager = stage.fallback()
    winner = stage.offer("tensorrt", is_final=True)
    stage.load(winner, 0)
    stage.fail(winner, 1)
    assert stage.status() == ("READY", "optimised", "tensorrt")
    assert stage.entry.progress == "cuda:1 serves on with eager fp32: out of memory"
    stage.die(1)
    assert stage.start(1, 2) == [eager.generation, winner.generation]
    stage.load(eager, 1)
    stage.load(winner, 1)
    assert stage.entry.progress == ""


def test_what_cannot_be_read_stays_unavailable() -> None:
    rollout = Rollout(("cpu",))
    rollout.announced(Entry("broken", "", State.UNAVAILABLE, "unknown key"))
    (found,) = rollout.entries()
    assert (found.state, found.reason, found.optimization) == (State.UNAVAILABLE, "unknown key", "")


def test_the_winner_of_the_race_keeps_the_contract_of_the_fallback() -> None:
    stage = Stage()
    fallback = stage.fallback()
    winner = stage.offer("inductor", is_final=True)
    assert winner.entry.contract == fallback.entry.contract == fallback.generation
    assert winner.entry.artifact > fallback.entry.artifact > 0, "what the two answer may differ"


def test_another_contract_must_be_taken_by_every_engine() -> None:
    stage = Stage("cuda:0", "cuda:1")
    stage.fallback()
    before = stage.entry.contract
    changed = stage.rollout.offered(entry(backend="inductor", max_batch_size=4), "/cache/new", is_final=True)
    assert changed.entry.contract == changed.generation > before
    for slot in (0, 1):
        stage.rollout.order(slot, changed)
    stage.load(changed, 0)
    assert stage.entry.contract == before, "one engine has yet to answer"
    stage.fail(changed, 1)
    assert stage.told()[-1] == "inductor given up for eager"
    assert (stage.entry.contract, stage.entry.state) == (before, State.READY)


def test_an_engine_that_holds_the_old_contract_only_is_not_asked_for_the_new_one() -> None:
    stage = Stage("cuda:0", "cuda:1")
    stage.fallback()
    changed = stage.rollout.offered(entry(backend="inductor", instances=2), "/cache/new", is_final=True)
    for slot in (0, 1):
        stage.rollout.order(slot, changed)
        stage.load(changed, slot)
    contract = stage.entry.contract
    assert contract == changed.generation
    assert len(stage.rollout.fleet.usable({KEY: contract})) == 2
    stage.die(1)
    assert stage.start(1, generation=2) == [changed.generation], "the old one is of no use to a successor"
    assert len(stage.rollout.fleet.usable({KEY: contract})) == 1
    stage.load(changed, 1)
    assert len(stage.rollout.fleet.usable({KEY: contract})) == 2


def test_what_leaves_is_not_loaded_by_a_successor_and_late_answers_change_nothing() -> None:
    stage = Stage()
    fallback = stage.fallback()
    stage.rollout.leaving(KEY)
    assert stage.entry.state == "UNLOADING"
    stage.die()
    assert stage.start(0, generation=2) == []
    stage.rollout.removed(KEY, None)
    stage.load(fallback)
    stage.rollout.progressed(KEY, "race")
    assert list(stage.rollout.entries()) == []


def test_the_same_artifact_served_in_the_same_way_is_no_news() -> None:
    stage = Stage()
    fallback = stage.fallback()
    assert stage.rollout.serves(fallback.entry, fallback.folder)
    assert not stage.rollout.serves(fallback.entry, "/cache/other")
    assert not stage.rollout.serves(entry(backend="eager", response_cache=True), fallback.folder)
    assert not stage.rollout.serves(entry(backend="eager", labels={"y": ("a", "b", "c")}), fallback.folder)
    stage.rollout.reloading(KEY)
    assert stage.status()[1] == "compiling"
    stage.rollout.kept(KEY, "")
    assert stage.status()[1] == "fallback"
