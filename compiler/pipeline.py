"""The stages by which one model becomes an artifact, in their order: the table of contents of this folder.

    describe   load.py, resolve.py, reference.py    what the model takes and gives; golden answers
    build      lower.py, backends/*                 one candidate per rung, each in a process of its own
    judge      verify.py, race.py                   each candidate, from its files, against golden answers and clock
    choose     choose.py                            the winner
    package    package.py                           its files and the manifest

Never imports torch: every stage that needs it runs in a builder process (`isolate.py`). Knows nothing of the cache.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from compiler.backends import eager
from compiler.choose import choose
from compiler.errors import BuilderDied, CompileError, LoadFailed, NoCandidate, ToolMissing
from compiler.isolate import run_job
from compiler.jobs import Build, Built, Case, Describe, Described, Interface, Job, Judge, Judged, Note, Place, Verdict
from compiler.manifest import Candidate, Manifest, Outcome
from compiler.package import LOG_NAME, folder_size, package
from compiler.source import file_digest
from compiler.spec import BACKENDS, Options, Source, Target

PRECISION = "fp32"


class Progress(msgspec.Struct, frozen=True):
    """What is going on: repeated every second, so that a listener may stop the work by raising."""

    stage: str
    candidate: str | None
    elapsed_s: float
    message: str


@dataclass
class Journal:
    """Tells the listener what goes on and keeps how long each stage took."""

    report: Callable[[Progress], None]
    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)
    current: Note = field(default_factory=lambda: Note("start", "starting"))
    since: float = field(default_factory=time.monotonic)

    def hear(self, note: Note | None) -> None:
        """A new note, or None: the last one goes on."""
        now = time.monotonic()
        if note is not None:
            self.seconds[self.current.stage] = self.seconds.get(self.current.stage, 0.0) + now - self.since
            self.current, self.since = note, now
        self.report(Progress(self.current.stage, self.current.candidate, now - self.started, self.current.message))


@dataclass(frozen=True)
class Bench:
    """Where one model is compiled: the folder that disappears afterwards, the copy of its files, its options."""

    workspace: Path
    place: Place
    options: Options
    journal: Journal

    def run(self, job: Job) -> object:
        """The answer of a builder process. Raises CompileError."""
        return run_job(job, self.workspace, self.options.timeout_s, self.journal.hear)


def build_artifact(
    source: Source, options: Options, target: Target, parts: Mapping[str, str], key: str, journal: Journal
) -> Callable[[Path], Path]:
    """What fills the cache: a function from an empty workspace to the folder to publish in it."""

    def build(workspace: Path) -> Path:
        bench = Bench(workspace, _copy_source(source, target, parts, workspace), options, journal)
        described = _describe(bench)
        rungs, folders = _build_all(bench, described.interface)
        judged = _judge_all(bench, described, folders)
        ladder = settle_ladder(rungs, judged, options)
        winner = next(rung for rung in ladder if rung.outcome == "chosen")
        journal.hear(Note("package", f"packing {winner.backend}", winner.backend))
        manifest = Manifest(
            key=key,
            key_parts=dict(parts),
            target=target,
            backend=winner.backend,
            precision=winner.precision,
            inputs=described.interface.inputs,
            outputs=described.interface.outputs,
            max_batch_size=described.interface.max_batch_size,
            buckets=described.interface.buckets,
            ladder=ladder,
            files=(),
            stage_seconds={stage: round(seconds, 3) for stage, seconds in journal.seconds.items()},
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        artifact = workspace / "artifact"
        package(manifest, folders[winner.backend], workspace / LOG_NAME, artifact)
        return artifact

    return build


def settle_ladder(rungs: tuple[Candidate, ...], judged: Judged, options: Options) -> tuple[Candidate, ...]:
    """Every rung with its final outcome, the chosen one among them. Raises NoCandidate with each rung's reason."""
    verdicts = {verdict.backend: verdict for verdict in judged.verdicts}
    times = {rung.backend: judged.milliseconds[rung.backend] for rung in rungs if rung.backend in judged.milliseconds}
    if not times:
        reasons = [
            (rung.backend, verdicts[rung.backend].reason if rung.backend in verdicts else rung.reason) for rung in rungs
        ]
        raise NoCandidate("no backend is left: " + "; ".join(f"{backend}: {reason}" for backend, reason in reasons))
    winner, losers = choose(times, options.objective)
    ladder = []
    for rung in rungs:
        verdict = verdicts.get(rung.backend)
        if verdict is None:
            ladder.append(rung)
            continue
        outcome: Outcome = "chosen" if rung.backend == winner else "slower"
        reason = losers.get(rung.backend, rung.reason)
        if verdict.outcome != "passed":
            outcome, reason = ("inaccurate" if verdict.outcome == "inaccurate" else "failed"), verdict.reason
        ladder.append(
            msgspec.structs.replace(
                rung, outcome=outcome, reason=reason, errors=verdict.errors, milliseconds=times.get(rung.backend, {})
            )
        )
    return tuple(ladder)


def _copy_source(source: Source, target: Target, parts: Mapping[str, str], workspace: Path) -> Place:
    """The files that the key was made of, where nobody changes them any more."""
    folder = workspace / "source"
    folder.mkdir()
    for name in source.files:
        shutil.copyfile(source.folder / name, folder / name)
        if file_digest(folder / name) != parts[f"source.{name}"]:
            raise LoadFailed(f"{source.folder / name} changed while it was compiled: compile it again")
    return Place(str(folder), str(source.folder), target.device)


def _describe(bench: Bench) -> Described:
    bench.journal.hear(Note("load", "starting a builder"))
    try:
        answer = bench.run(Describe(bench.place, bench.options, str(bench.workspace / "golden")))
    except BuilderDied as error:
        raise LoadFailed(f"the model in {bench.place.origin} cannot be loaded and run: {error}") from error
    assert isinstance(answer, Described), "a description is answered by one"
    return answer


def _build_all(bench: Bench, interface: Interface) -> tuple[tuple[Candidate, ...], dict[str, Path]]:
    """One rung for each backend that was asked for, simplest first, and the folders of those that were built."""
    rungs, folders = [], {}
    for backend in (name for name in BACKENDS if name in bench.options.backends):
        out = bench.workspace / "candidates" / backend
        started = time.monotonic()
        outcome: Outcome = "passed"
        try:
            reason = _build_one(bench, interface, backend, out)
        except ToolMissing as error:
            outcome, reason = "skipped", str(error)
        except CompileError as error:
            outcome, reason = "failed", str(error)
        else:
            folders[backend] = out
        rungs.append(
            Candidate(
                backend,
                PRECISION,
                outcome,
                reason,
                build_seconds=round(time.monotonic() - started, 3),
                size=folder_size(out),
            )
        )
    return tuple(rungs), folders


def _build_one(bench: Bench, interface: Interface, backend: str, out: Path) -> str:
    bench.journal.hear(Note("build", "starting a builder", backend))
    if backend == "eager":
        # Its build copies files and runs none of them: no process to start for that.
        out.mkdir(parents=True)
        return eager.build(None, interface, bench.place, out)
    answer = bench.run(Build(bench.place, bench.options, interface, backend, PRECISION, str(out)))
    assert isinstance(answer, Built), "a build is answered by one"
    return answer.how


def _judge_all(bench: Bench, described: Described, folders: Mapping[str, Path]) -> Judged:
    """The verdicts on all candidates. One that takes the judge down with it is out, and the others are judged again."""
    waiting = {backend: str(folder) for backend, folder in folders.items()}
    lost: list[Verdict] = []
    while waiting:
        try:
            judged = _judge(bench, described.interface, described.cases, waiting)
        except BuilderDied as error:
            culprit = bench.journal.current.candidate
            if culprit not in waiting:
                raise BuilderDied(f"while the candidates were compared, {error}") from error
            del waiting[culprit]
            lost.append(Verdict(culprit, (), "failed", f"while it was compared with the reference, {error}"))
        else:
            return Judged((*judged.verdicts, *lost), judged.milliseconds)
    return Judged(tuple(lost), {})


def _judge(bench: Bench, interface: Interface, cases: tuple[Case, ...], folders: dict[str, str]) -> Judged:
    bench.journal.hear(Note("verify", "starting a builder"))
    answer = bench.run(Judge(bench.place, bench.options, interface, cases, folders))
    assert isinstance(answer, Judged), "a judgement is answered by one"
    return answer
