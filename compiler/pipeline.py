"""The stages by which one model becomes an artifact, in their order: the table of contents of this folder.

    describe   load.py, resolve.py, reference.py    what the model takes and gives; golden answers
    plan       ladder.py                            which candidates are tried
    build      quantize/*, lower.py, backends/*     one candidate per rung, each in a process of its own
    judge      verify.py, race.py                   each candidate, from its files, against golden answers and clock
    choose     choose.py, settle.py                 the winner, and every rung's outcome
    package    package.py                           its files and the manifest

Never imports torch: every stage that needs it runs in a builder process (`isolate.py`). Knows nothing of the cache;
`journal.py` tells who listens.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from compiler.backends import eager
from compiler.errors import BuilderDied, CompileError, LoadFailed, ToolMissing, Unsupported
from compiler.isolate import run_job
from compiler.jobs import (
    Build,
    Built,
    Case,
    Describe,
    Described,
    Entrant,
    Interface,
    Job,
    Judge,
    Judged,
    Note,
    Place,
    Verdict,
)
from compiler.journal import Journal
from compiler.key import digest
from compiler.ladder import Planned, plan
from compiler.manifest import Candidate, Manifest, Outcome
from compiler.mix import assemble, find_mix
from compiler.package import LOG_NAME, folder_size, package
from compiler.settle import add_mixture, settle_ladder
from compiler.source import file_digest, origin_of
from compiler.spec import Options, Rung, Source, Target


@dataclass(frozen=True)
class Bench:
    """Where one model is compiled: the folder that disappears afterwards, the copy of its files, its options.

    `niceness` is how far its processes stand back for others, as `nice` counts.
    """

    workspace: Path
    place: Place
    options: Options
    target: Target
    journal: Journal
    niceness: int = 0

    def run(self, job: Job) -> object:
        """The answer of a builder process. Raises CompileError."""
        return run_job(job, self.workspace, self.options.timeout_s, self.journal.hear, self.niceness)


def build_artifact(
    source: Source, options: Options, target: Target, parts: Mapping[str, str], journal: Journal, niceness: int = 0
) -> Callable[[Path], Path]:
    """What fills the cache: a function from an empty workspace to the folder to publish in it."""

    def build(workspace: Path) -> Path:
        place = _copy_source(source, target, parts, workspace)
        bench = Bench(workspace, place, options, target, journal, niceness)
        described = _describe(bench, str(workspace / "golden"))
        planned = plan(options, target, described)
        journal.plan(planned)
        rungs, folders = _build_all(bench, described.interface, planned)
        judged = _judge_all(bench, described, folders)
        ladder = _mix(bench, described, settle_ladder(rungs, judged, options), folders)
        return _publish(bench, parts, described, ladder, folders)

    return build


def build_fallback(
    source: Source, options: Options, target: Target, parts: Mapping[str, str], journal: Journal
) -> Callable[[Path], Path]:
    """As `build_artifact`, in seconds: the model itself, run eagerly. It is the reference: nothing to compare."""

    def build(workspace: Path) -> Path:
        bench = Bench(workspace, _copy_source(source, target, parts, workspace), options, target, journal)
        described = _describe(bench, "")
        planned = (Planned(Rung("eager")),)
        journal.plan(planned)
        rungs, folders = _build_all(bench, described.interface, planned)
        ladder = (msgspec.structs.replace(rungs[0], outcome="chosen"),)
        return _publish(bench, parts, described, ladder, folders)

    return build


def _copy_source(source: Source, target: Target, parts: Mapping[str, str], workspace: Path) -> Place:
    """The files that the key was made of, where nobody changes them any more."""
    folder = workspace / "source"
    folder.mkdir()
    for name in source.files:
        shutil.copyfile(source.folder / name, folder / name)
        if file_digest(folder / name) != parts[f"source.{name}"]:
            raise LoadFailed(f"{source.folder / name} changed while it was compiled: compile it again")
    return Place(str(folder), str(source.folder), target.device, source.factory)


def _describe(bench: Bench, goldens: str) -> Described:
    bench.journal.hear(Note("load", "starting a builder"))
    try:
        answer = bench.run(Describe(bench.place, bench.options, goldens))
    except BuilderDied as error:
        raise LoadFailed(f"the model in {bench.place.origin} cannot be loaded and run: {error}") from error
    assert isinstance(answer, Described), "a description is answered by one"
    return answer


def _build_all(
    bench: Bench, interface: Interface, planned: tuple[Planned, ...]
) -> tuple[tuple[Candidate, ...], dict[Rung, Path]]:
    """What became of each rung so far, and the folders of those that were built."""
    rungs, folders = [], {}
    for number, one in enumerate(planned):
        out = bench.workspace / "candidates" / str(number)
        candidate = _try_rung(bench, interface, one, out)
        bench.journal.settle(
            one.rung, "built" if candidate.outcome == "passed" else candidate.outcome, candidate.reason
        )
        if candidate.outcome == "passed":
            folders[one.rung] = out
        rungs.append(candidate)
    return tuple(rungs), folders


def _try_rung(bench: Bench, interface: Interface, planned: Planned, out: Path) -> Candidate:
    """A builder that crashes, hangs or refuses loses this rung only."""
    rung, started = planned.rung, time.monotonic()
    outcome: Outcome = "passed"
    built = Built()
    try:
        if planned.refusal:
            raise Unsupported(planned.refusal)
        built = _build_one(bench, interface, rung, out)
        reason = built.how
    except ToolMissing as error:
        outcome, reason = "skipped", str(error)
    except Unsupported as error:
        outcome, reason = "unsupported", str(error)
    except CompileError as error:
        outcome, reason = "failed", str(error)
    return Candidate(
        backend=rung.backend,
        precision=rung.precision,
        variant=rung.variant,
        outcome=outcome,
        reason=reason,
        build_seconds=round(time.monotonic() - started, 3),
        size=folder_size(out),
        hybrid=built.hybrid,
        ignored=built.ignored,
    )


def _build_one(bench: Bench, interface: Interface, rung: Rung, out: Path) -> Built:
    bench.journal.hear(Note("build", "starting a builder", rung.name))
    if rung == Rung("eager"):
        # Its build copies files and runs none of them: no process to start for that.
        out.mkdir(parents=True)
        return eager.build(None, interface, bench.place, out, rung)
    answer = bench.run(Build(bench.place, bench.options, interface, rung, str(out)))
    assert isinstance(answer, Built), "a build is answered by one"
    return answer


def _judge_all(bench: Bench, described: Described, folders: Mapping[Rung, Path]) -> Judged:
    """The verdicts on all candidates. One that takes the judge down with it is out, and the others are judged again."""
    waiting = {rung.name: Entrant(rung, str(folder)) for rung, folder in folders.items()}
    lost: list[Verdict] = []
    while waiting:
        try:
            judged = _judge(bench, described, described.cases, tuple(waiting.values()))
        except BuilderDied as error:
            culprit = bench.journal.current.candidate
            if culprit not in waiting:
                raise BuilderDied(f"while the candidates were compared, {error}") from error
            del waiting[culprit]
            lost.append(Verdict(culprit, (), "failed", f"while it was compared with the reference, {error}"))
        else:
            return msgspec.structs.replace(judged, verdicts=(*judged.verdicts, *lost))
    return Judged(tuple(lost), {})


def _judge(bench: Bench, described: Described, cases: tuple[Case, ...], entrants: tuple[Entrant, ...]) -> Judged:
    bench.journal.hear(Note("verify", "starting a builder"))
    answer = bench.run(
        Judge(
            place=bench.place,
            options=bench.options,
            interface=described.interface,
            cases=cases,
            entrants=entrants,
            quantization=described.quantization,
            samples=described.samples,
            reference_accuracy=described.reference_accuracy,
        )
    )
    assert isinstance(answer, Judged), "a judgement is answered by one"
    return answer


def _mix(
    bench: Bench, described: Described, ladder: tuple[Candidate, ...], folders: dict[Rung, Path]
) -> tuple[Candidate, ...]:
    """The ladder with a mixture of its winner's two kinds of engines on top, where each kind is better at some size."""
    mix = find_mix(ladder)
    if mix is None:
        return ladder
    out = bench.workspace / "candidates" / "mixed"
    assemble(mix, folders[mix.static], folders[mix.dynamic], out)
    folders[mix.rung] = out
    judged = _judge_all(bench, described, {mix.rung: out})
    hybrid = next(rung.hybrid for rung in ladder if rung.rung == mix.dynamic)
    return add_mixture(ladder, mix, judged, folder_size(out), hybrid)


def _publish(
    bench: Bench,
    parts: Mapping[str, str],
    described: Described,
    ladder: tuple[Candidate, ...],
    folders: Mapping[Rung, Path],
) -> Path:
    """The folder of the finished artifact."""
    journal = bench.journal
    for rung in ladder:
        journal.settle(rung.rung, rung.outcome, rung.reason)
    winner = next(rung for rung in ladder if rung.outcome == "chosen")
    journal.hear(Note("package", f"packing {winner.rung.name}", winner.rung.name))
    interface = described.interface
    manifest = Manifest(
        key=digest(parts),
        key_parts=dict(parts),
        target=bench.target,
        backend=winner.backend,
        precision=winner.precision,
        variant=winner.variant,
        inputs=interface.inputs,
        outputs=interface.outputs,
        max_batch_size=interface.max_batch_size,
        buckets=interface.buckets,
        ladder=ladder,
        files=(),
        stage_seconds={stage: round(seconds, 3) for stage, seconds in journal.seconds.items()},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        reference_accuracy=described.reference_accuracy,
        samples=described.sample_count,
        sparsity=described.sparsity,
        is_fallback="purpose" in parts or _is_stand_in(winner, bench.options),
        origin=origin_of(bench.place.origin),
    )
    artifact = bench.workspace / "artifact"
    package(manifest, folders[winner.rung], Path(bench.place.folder), bench.workspace / LOG_NAME, artifact)
    return artifact


def _is_stand_in(winner: Candidate, options: Options) -> bool:
    """Whether eager is served though it was not asked for."""
    return winner.backend == "eager" and options.backends is not None and "eager" not in options.backends
