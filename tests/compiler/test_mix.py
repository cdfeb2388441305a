from __future__ import annotations

from pathlib import Path

import msgspec

from compiler.manifest import Candidate
from compiler.mix import assemble, find_mix

DYNAMIC = Candidate("tensorrt", "fp16", "chosen", variant="dynamic", milliseconds={1: 1.0, 8: 2.0, 32: 4.0})
STATIC = Candidate("tensorrt", "fp16", "slower", variant="static", milliseconds={1: 0.8, 8: 1.95, 32: 5.0})
EAGER = Candidate("eager", "fp32", "slower", milliseconds={1: 9.0, 8: 9.0, 32: 9.0})


def test_a_size_keeps_its_own_engine_where_that_wins_by_the_margin() -> None:
    mix = find_mix((EAGER, DYNAMIC, STATIC))
    assert mix is not None
    assert (mix.rung.name, mix.kept) == ("tensorrt fp16 mixed", (1,))
    assert mix.reason == "an engine of its own at batch 1, one engine for the others"


def test_it_does_not_matter_which_of_the_two_was_chosen() -> None:
    ladder = (
        EAGER,
        msgspec.structs.replace(DYNAMIC, outcome="slower"),
        msgspec.structs.replace(STATIC, outcome="chosen"),
    )
    assert find_mix(ladder) == find_mix((EAGER, DYNAMIC, STATIC))


def test_nothing_is_mixed_where_one_kind_is_best_everywhere_or_alone() -> None:
    assert find_mix((EAGER, DYNAMIC, msgspec.structs.replace(STATIC, milliseconds=DYNAMIC.milliseconds))) is None
    half = {batch: time / 2 for batch, time in DYNAMIC.milliseconds.items()}
    assert find_mix((EAGER, DYNAMIC, msgspec.structs.replace(STATIC, milliseconds=half))) is None
    assert find_mix((EAGER, DYNAMIC, msgspec.structs.replace(STATIC, milliseconds={}))) is None
    assert find_mix((msgspec.structs.replace(EAGER, outcome="chosen"), STATIC)) is None


def test_only_engines_of_the_same_weights_are_mixed() -> None:
    pruned = msgspec.structs.replace(STATIC, variant="static 2:4")
    assert find_mix((DYNAMIC, pruned)) is None
    mix = find_mix((msgspec.structs.replace(DYNAMIC, variant="dynamic 2:4"), pruned))
    assert mix is not None
    assert mix.rung.variant == "mixed 2:4"


def test_a_mixture_is_put_together_from_both_folders(tmp_path: Path) -> None:
    for name in ("static/batch_1", "static/batch_8", "dynamic/any_batch"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.ts").write_text(name)
    mix = find_mix((DYNAMIC, STATIC))
    assert mix is not None
    assemble(mix, tmp_path / "static", tmp_path / "dynamic", tmp_path / "mixed")
    assert {path.name for path in (tmp_path / "mixed").iterdir()} == {"any_batch", "batch_1"}
