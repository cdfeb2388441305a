"""Gives every rung of the ladder its final outcome: chosen, slower, inaccurate or failed, each with its reason.

Pure. `choose.py` picks the winner by its times, `pipeline.py` asks for the whole ladder.
"""

from __future__ import annotations

import msgspec

from compiler.choose import choose
from compiler.errors import NoCandidate
from compiler.jobs import Judged, Verdict
from compiler.manifest import Candidate, HybridMap, Outcome
from compiler.mix import Mix
from compiler.spec import Options


def settle_ladder(rungs: tuple[Candidate, ...], judged: Judged, options: Options) -> tuple[Candidate, ...]:
    """Every rung with its final outcome, the chosen one among them.

    Eager float32 stands in where nothing that was asked for is left: it competes only where it was asked for itself.
    Raises NoCandidate with each rung's reason where none is left, or where it is `strict` and a backend passed at some
    precision in none of its ways.
    """
    verdicts = {verdict.name: verdict for verdict in judged.verdicts}
    rungs = tuple(_apply(rung, verdicts.get(rung.rung.name)) for rung in rungs)
    lost = [rung for rung in rungs if rung.outcome != "passed"]
    if options.strict:
        _check_strict(rungs, options)
    times = {rung.rung.name: judged.milliseconds[rung.rung.name] for rung in rungs if rung.outcome == "passed"}
    asked = {
        name: milliseconds
        for name, milliseconds in times.items()
        if options.backends is None or name.partition(" ")[0] in options.backends
    }
    if not times:
        raise NoCandidate(f"no backend is left: {_reasons(lost)}")
    winner, losers = choose(asked or times, options.objective)
    rungs = tuple(_settle(rung, winner, losers, times) for rung in rungs)
    return tuple(msgspec.structs.replace(rung, padded=judged.padded.get(rung.rung.name, ())) for rung in rungs)


def _check_strict(rungs: tuple[Candidate, ...], options: Options) -> None:
    """Each backend must pass at each precision, in one of its ways: they compete, and the wrong ones are to be lost.

    What a device cannot do counts where it was asked for; our own choice of rungs asks of no device too much.
    """
    is_asked = options.backends is not None or options.precisions is not None
    done = {(rung.backend, rung.precision) for rung in rungs if rung.outcome == "passed"}
    lost = [rung for rung in rungs if (rung.backend, rung.precision) not in done]
    missed = [rung for rung in lost if is_asked or rung.outcome != "unsupported"]
    if missed:
        raise NoCandidate(f"strict: every rung must pass, and {_reasons(missed)}")


def add_mixture(
    ladder: tuple[Candidate, ...], mix: Mix, judged: Judged, size: int, hybrid: HybridMap | None
) -> tuple[Candidate, ...]:
    """The ladder with the mixture as a rung of its own: chosen where it passed, else lost with its reason."""
    made = Candidate(
        mix.rung.backend, mix.rung.precision, "passed", mix.reason, size=size, variant=mix.rung.variant, hybrid=hybrid
    )
    made = _apply(made, next(iter(judged.verdicts), None))
    if made.outcome != "passed":
        return (*ladder, made)
    name = mix.rung.name
    made = msgspec.structs.replace(
        made, outcome="chosen", milliseconds=judged.milliseconds[name], padded=judged.padded.get(name, ())
    )
    below = tuple(
        msgspec.structs.replace(rung, outcome="slower", reason=f"its parts are in {mix.rung.name}")
        if rung.outcome == "chosen"
        else rung
        for rung in ladder
    )
    return (*below, made)


def _apply(rung: Candidate, verdict: Verdict | None) -> Candidate:
    """The rung with what verification says of it; one that was not built has no verdict."""
    if verdict is None:
        return rung
    outcome: Outcome = "passed" if verdict.outcome == "passed" else "inaccurate"
    if verdict.outcome not in ("passed", "inaccurate"):
        outcome = "failed"
    return msgspec.structs.replace(
        rung,
        outcome=outcome,
        reason=verdict.reason or rung.reason,
        errors=verdict.errors,
        accuracy=verdict.accuracy,
        memory=verdict.memory,
        graphs=verdict.graphs,
    )


def _settle(rung: Candidate, winner: str, losers: dict[str, str], times: dict[str, dict[int, float]]) -> Candidate:
    name = rung.rung.name
    if rung.outcome != "passed":
        return rung
    milliseconds = times[name]
    if name == winner:
        return msgspec.structs.replace(rung, outcome="chosen", milliseconds=milliseconds)
    reason = losers.get(name, "it stands by for when nothing that was asked for is left")
    return msgspec.structs.replace(rung, outcome="slower", reason=reason, milliseconds=milliseconds)


def _reasons(lost: list[Candidate]) -> str:
    return "; ".join(f"{rung.rung.name}: {rung.reason}" for rung in lost)
