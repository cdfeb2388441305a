from __future__ import annotations

import pytest

from compiler.errors import NoCandidate
from compiler.jobs import Judged, Verdict
from compiler.manifest import Candidate
from compiler.mix import find_mix
from compiler.settle import add_mixture, settle_ladder
from compiler.spec import Options

EAGER = Candidate("eager", "fp32", "passed")
SCRIPT = Candidate("torchscript", "fp32", "passed", reason="scripted, not traced")
INT8 = Candidate("torchscript", "int8", "passed", variant="onednn")
LOST = Candidate("inductor", "fp32", "failed", reason="no compiler understands it")


def judged(**milliseconds: float) -> Judged:
    names = {"eager": "eager fp32", "script": "torchscript fp32", "int8": "torchscript int8 onednn"}
    times = {names[key]: {1: value} for key, value in milliseconds.items()}
    return Judged(tuple(Verdict(name, ()) for name in times), times)


def outcomes(ladder: tuple[Candidate, ...]) -> dict[str, str]:
    return {rung.rung.name: rung.outcome for rung in ladder}


def test_the_fastest_is_chosen_and_the_others_say_by_how_much_they_lost() -> None:
    ladder = settle_ladder((EAGER, INT8, LOST), judged(eager=3.0, int8=1.0), Options())
    assert outcomes(ladder) == {
        "eager fp32": "slower",
        "torchscript int8 onednn": "chosen",
        "inductor fp32": "failed",
    }
    assert ladder[0].reason == "3.00 times slower than torchscript int8 onednn"
    assert ladder[2].reason == "no compiler understands it"


def test_a_verdict_takes_a_rung_out_with_its_reason_and_its_accuracy() -> None:
    verdicts = (Verdict("eager fp32", ()), Verdict("torchscript int8 onednn", (), "inaccurate", "too far", 0.5))
    ladder = settle_ladder((EAGER, INT8), Judged(verdicts, {"eager fp32": {1: 1.0}}), Options())
    assert (ladder[1].outcome, ladder[1].reason, ladder[1].accuracy) == ("inaccurate", "too far", 0.5)
    assert ladder[0].outcome == "chosen"


def test_the_notable_way_of_a_build_is_kept_by_the_winner() -> None:
    ladder = settle_ladder((EAGER, SCRIPT), judged(eager=3.0, script=1.0), Options())
    assert ladder[1].reason == "scripted, not traced"


def test_eager_that_was_not_asked_for_does_not_compete() -> None:
    ladder = settle_ladder((EAGER, SCRIPT), judged(eager=1.0, script=2.0), Options(backends=("torchscript",)))
    assert outcomes(ladder) == {"eager fp32": "slower", "torchscript fp32": "chosen"}
    assert "stands by" in ladder[0].reason


def test_eager_stands_in_where_nothing_that_was_asked_for_is_left() -> None:
    ladder = settle_ladder((EAGER, LOST), judged(eager=1.0), Options(backends=("inductor",)))
    assert outcomes(ladder) == {"eager fp32": "chosen", "inductor fp32": "failed"}


def test_strict_makes_a_lost_rung_a_failure() -> None:
    with pytest.raises(NoCandidate, match="every rung must pass, and inductor fp32: no compiler understands it"):
        settle_ladder((EAGER, LOST), judged(eager=1.0), Options(strict=True))


def test_strict_is_content_with_one_of_the_ways_that_compete() -> None:
    other = Candidate("torchscript", "int8", "failed", variant="x86", reason="less accurate")
    ladder = settle_ladder((EAGER, INT8, other), judged(eager=3.0, int8=1.0), Options(strict=True))
    assert outcomes(ladder)["torchscript int8 x86"] == "failed"
    with pytest.raises(NoCandidate, match="torchscript int8 x86: less accurate"):
        settle_ladder((EAGER, other), judged(eager=3.0), Options(strict=True))


def test_strict_asks_of_no_device_what_it_cannot_do_unless_it_was_named() -> None:
    refused = Candidate("tensorrt", "fp32", "unsupported", reason="this flavour has no fp32")
    assert settle_ladder((EAGER, refused), judged(eager=1.0), Options(strict=True))[0].outcome == "chosen"
    with pytest.raises(NoCandidate, match="tensorrt fp32: this flavour has no fp32"):
        settle_ladder((EAGER, refused), judged(eager=1.0), Options(strict=True, precisions=("fp32",)))


def test_no_candidate_tells_each_reason() -> None:
    with pytest.raises(NoCandidate, match="no backend is left: inductor fp32: no compiler understands it"):
        settle_ladder((LOST,), Judged((), {}), Options(backends=("inductor",)))


def test_a_mixture_that_passed_takes_the_place_of_its_parts() -> None:
    chosen = Candidate("tensorrt", "fp16", "chosen", variant="dynamic", milliseconds={1: 2.0, 8: 2.0})
    static = Candidate("tensorrt", "fp16", "slower", variant="static", milliseconds={1: 1.0, 8: 2.0})
    mix = find_mix((chosen, static))
    assert mix is not None
    right = Judged((Verdict(mix.rung.name, ()),), {mix.rung.name: {1: 1.0, 8: 2.0}})
    assert outcomes(add_mixture((chosen, static), mix, right, 10, None)) == {
        "tensorrt fp16 dynamic": "slower",
        "tensorrt fp16 static": "slower",
        "tensorrt fp16 mixed": "chosen",
    }
    wrong = Judged((Verdict(mix.rung.name, (), "inaccurate", "too far"),), {})
    assert outcomes(add_mixture((chosen, static), mix, wrong, 10, None))["tensorrt fp16 dynamic"] == "chosen"
