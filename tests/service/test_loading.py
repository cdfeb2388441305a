"""Every model serves as soon as it can, is compiled once, and what goes wrong with one is told and stops no other."""

import asyncio
from pathlib import Path

import pytest

from compiler.errors import BuilderDied, LoadFailed, NoCandidate
from compiler.spec import TensorSpec
from service.loading import BESIDE_SERVING
from service.repository.storage import RepositoryError, find, source_of
from tests.service.loaded import CONFIG, Bench, manifest


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_first_the_fallback_then_the_winner(bench: Bench) -> None:
    bench.add("m")
    bench.run()
    assert bench.audience.of("m") == [
        "loading",
        "fallback: build inductor fp32",
        "waiting for its turn",
        "fallback eager",
        "starting",
        "build inductor fp32",
        "winner inductor",
    ]
    assert bench.compiler.calls == ["fallback m", f"compile at {BESIDE_SERVING} m"]
    assert (bench.audience.entries["m"].origin, bench.audience.entries["m"].buckets) == ("compiled", (1, 8))


def test_what_the_cache_has_is_neither_compiled_nor_waited_for(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    bench.compiler.cached = {"b"}
    bench.run()
    assert bench.audience.of("b") == ["loading", "winner torchscript"]
    assert bench.audience.entries["b"].origin == "cache"
    assert not any(call.endswith(" b") for call in bench.compiler.calls)


@pytest.mark.parametrize("config", ["startup: wait\n", "compile: {strict: true}\n"])
def test_a_model_that_waits(bench: Bench, config: str) -> None:
    bench.add("m", config)
    bench.run()
    assert bench.compiler.calls == ["compile m"], "nothing serves that the builders should stand back for"
    assert bench.audience.of("m") == ["loading", "starting", "build inductor fp32", "winner inductor"]


def test_a_model_may_differ_from_the_service(bench: Bench) -> None:
    bench.add("m", "startup: fallback\n")
    bench.add("n")
    bench.run(startup="wait")
    assert bench.compiler.calls == ["fallback m", "compile n", f"compile at {BESIDE_SERVING} m"]


def test_all_serve_before_any_is_compiled_and_those_that_serve_are_compiled_last(bench: Bench) -> None:
    for name, config in (("a", ""), ("b", "startup: wait\n"), ("c", "")):
        bench.add(name, config)
    bench.run()
    beside = f"compile at {BESIDE_SERVING}"
    assert sorted(bench.compiler.calls[:2]) == ["fallback a", "fallback c"], "in whichever order their files were read"
    assert bench.compiler.calls[2:] == ["compile b", f"{beside} a", f"{beside} c"]


def test_a_model_that_cannot_be_opened_is_not_tried_again(bench: Bench) -> None:
    bench.add("m")
    bench.compiler.fails["fallback m"] = LoadFailed("the weights are on the moon")
    bench.run()
    assert bench.audience.of("m")[-1] == "failed: the weights are on the moon"
    assert bench.compiler.calls == ["fallback m"]


def test_a_fallback_that_cannot_be_made_is_waited_out(bench: Bench) -> None:
    bench.add("m")
    bench.compiler.fails["fallback m"] = BuilderDied("its process was killed")
    bench.run()
    assert bench.audience.of("m")[-1] == "winner inductor"
    assert bench.compiler.calls == ["fallback m", "compile m"]


def test_a_compilation_that_fails_is_told_and_the_others_go_on(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    beside = f"compile at {BESIDE_SERVING}"
    bench.compiler.fails[f"{beside} a"] = NoCandidate("no backend is left")
    bench.compiler.fails[f"{beside} b"] = RuntimeError("a bug")
    bench.run()
    assert bench.audience.of("a")[-1] == "failed: no backend is left"
    assert bench.audience.of("b")[-1] == "failed: internal error while compiling: the server's log has the details"


def test_a_winner_with_another_interface_or_source_does_not_replace_what_serves(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")
    bench.compiler.winners["a"] = manifest("inductor", max_batch_size=4)
    bench.compiler.winners["b"] = manifest("inductor", key_parts={"source.model.py": "2"})
    bench.run()
    assert "its max_batch_size are 4 and not 8" in bench.audience.of("a")[-1]
    assert "the model's files have changed meanwhile" in bench.audience.of("b")[-1]


def test_a_race_without_a_winner_says_why(bench: Bench) -> None:
    bench.add("m")
    bench.compiler.winners["m"] = manifest("eager", is_fallback=True)
    bench.run()
    assert bench.audience.of("m")[-1] == "winner eager, no candidate passed: tensorrt fp16 failed: it crashed"


STATEFUL = """  - {name: h, datatype: FP32, shape: [-1, 4]}
startup: wait
sequence:
  state:
    - {input: h, output: g}
"""


TENSORS = (TensorSpec("x", "FP32", (-1, 3)), TensorSpec("h", "FP32", (-1, 4)))


def test_clients_do_not_see_the_state_of_an_artifact(bench: Bench) -> None:
    bench.add("m", STATEFUL)
    outputs = (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("g", "FP32", (-1, 4)))
    bench.compiler.winners["m"] = manifest("inductor", inputs=TENSORS, outputs=outputs)
    bench.run()
    entry = bench.audience.entries["m"]
    assert (entry.inputs, entry.outputs, entry.hidden) == (TENSORS[:1], outputs[:1], TENSORS[1:])


def test_an_artifact_whose_state_does_not_fit_is_not_offered(bench: Bench) -> None:
    bench.add("m", STATEFUL)
    outputs = (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("g", "FP16", (-1, 4)))
    bench.compiler.winners["m"] = manifest("inductor", inputs=TENSORS, outputs=outputs)
    bench.run()
    assert bench.audience.of("m")[-1] == (
        "failed: its model.yaml: the state goes out of 'g' as FP16, but 'h' takes FP32"
    )


def test_stopping_ends_the_builder_and_begins_nothing_more(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")

    async def run() -> None:
        loader, loop = bench.loader(), asyncio.get_running_loop()

        async def stop() -> None:
            loader.stop()

        bench.compiler.while_compiling = lambda: asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loader.start()
        assert loader._task is not None, "it was started"
        await asyncio.wait([loader._task])

    asyncio.run(run())
    assert sorted(bench.compiler.calls) == ["fallback a", "fallback b"], "the builder of a was told to stop"
    assert not any("winner" in line or "failed" in line for line in bench.audience.told)


def test_without_trust_nothing_is_opened(bench: Bench) -> None:
    bench.add("m")
    (bench.folder / "models/m/model.yaml").write_text(CONFIG.replace("trust: true", ""))
    bench.run()
    assert "trust: true" in bench.audience.of("m")[-1]
    assert bench.compiler.calls == []


def test_only_what_is_asked_for_is_begun_and_the_rest_is_there_all_the_same(bench: Bench) -> None:
    bench.add("a")
    bench.add("b")

    async def run() -> None:
        loader = bench.loader()
        loader.start(only=("b",))
        assert loader._task is not None, "it was started"
        await loader._task
        with pytest.raises(RepositoryError, match="--load-model nobody"):
            loader.start(only=("nobody",))

    asyncio.run(run())
    assert bench.audience.of("a") == ["unavailable"]
    assert bench.audience.of("b")[-1] == "winner inductor"


def test_a_model_is_loaded_again_beside_what_serves_without_a_fallback(bench: Bench) -> None:
    bench.add("m")

    async def run() -> None:
        loader = bench.loader()
        loader.start()
        assert loader._task is not None, "it was started"
        await loader._task
        found = find(bench.folder / "models", "m", {"instances": 2})
        assert found is not None
        loader.begin(found, beside=("1",))
        await asyncio.gather(*loader._later)

    asyncio.run(run())
    assert bench.audience.of("m")[7:] == ["reloading", "starting", "build inductor fp32", "winner inductor"]
    assert bench.compiler.calls[2:] == [f"compile at {BESIDE_SERVING} m"]
    assert bench.audience.entries["m"].instances == 2


def test_nothing_is_told_of_a_model_that_was_given_up(bench: Bench) -> None:
    bench.add("m", "startup: wait\n")

    async def run() -> None:
        loader, loop = bench.loader(), asyncio.get_running_loop()

        async def give_up() -> None:
            loader.give_up("m")

        bench.compiler.while_compiling = lambda: asyncio.run_coroutine_threadsafe(give_up(), loop).result()
        loader.start()
        assert loader._task is not None, "it was started"
        await loader._task

    asyncio.run(run())
    assert bench.audience.of("m") == ["loading", "starting"]


STEPS = "preprocess: {inputs: [{name: text, datatype: BYTES, shape: [-1, 1]}]}\n"


def test_python_steps_are_offered_with_the_copy_that_is_kept_of_them(bench: Bench) -> None:
    bench.add("m", STEPS)
    (bench.folder / "models/m/1/preprocess.py").write_text("def preprocess(inputs): ...")
    bench.run()
    entry = bench.audience.entries["m"]
    assert [spec.name for spec in entry.inputs] == ["text"], "clients see what the step takes"
    assert entry.steps is not None
    assert (Path(entry.steps.folder) / "preprocess.py").read_text() == "def preprocess(inputs): ..."


def test_steps_are_no_part_of_what_is_compiled(bench: Bench) -> None:
    bench.add("m", STEPS)
    (bench.folder / "models/m/1/preprocess.py").write_text("one")
    model = find(bench.folder / "models", "m", {})
    assert model is not None
    before = source_of(model, "1", trust_all=False)
    (bench.folder / "models/m/1/preprocess.py").write_text("two")
    assert source_of(model, "1", trust_all=False) == before
    assert "preprocess.py" not in before.files


def test_steps_that_nobody_trusts_stop_the_model_before_it_is_compiled(bench: Bench) -> None:
    weights = "factory: {name: mlp, arguments: {sizes: [3, 2]}}\n"
    bench.add("m", STEPS + weights)
    folder = bench.folder / "models/m"
    (folder / "1/model.py").unlink()
    (folder / "1/model.safetensors").write_bytes(b"")
    (folder / "1/preprocess.py").write_text("")
    (folder / "model.yaml").write_text((CONFIG + STEPS + weights).replace("trust: true", ""))
    bench.run()
    assert "preprocess.py can run code: it is Python code" in bench.audience.of("m")[-1]
    assert bench.compiler.calls == []
