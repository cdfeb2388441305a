"""From the model repository to artifacts: scans once, has every version compiled (or taken from the cache), and tells.

Runs compilations in threads beside the parent's loop; knows nothing of engines. `serve.py` is told of each change.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

import compiler
from compiler import Artifact, Progress
from compiler.cache import Cache
from compiler.errors import CompileError
from compiler.spec import Target
from compiler.target import detect_target
from service.observe.metrics import CACHE, COMPILE
from service.repository.catalog import Entry, State
from service.repository.config import ModelConfig, to_options
from service.repository.storage import FoundModel, scan, source_of
from service.settings import Settings

log = logging.getLogger("torchere.compiler")


@dataclass(frozen=True, slots=True)
class Job:
    """One version to compile."""

    model: FoundModel
    version: str
    config: ModelConfig


class Stopping(Exception):
    """The service leaves: what is being compiled is given up."""


class Loader:
    """`on_change(entry)` for every step, `on_artifact(entry, artifact)` when a version can be loaded."""

    def __init__(
        self,
        settings: Settings,
        device: str,
        on_change: Callable[[Entry], None],
        on_artifact: Callable[[Entry, Artifact], None],
    ) -> None:
        self._settings = settings
        self._device = device
        self._cache = Cache(settings.cache_dir)
        self._on_change = on_change
        self._on_artifact = on_artifact
        self._jobs = asyncio.Semaphore(settings.compile_jobs)
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopping = False

    def start(self) -> None:
        """Scan the repository and begin; raises RepositoryError where there is none."""
        target = detect_target(self._device)
        jobs = []
        for model in scan(self._settings.model_repository, self._settings.models):
            jobs.extend(self._announce(model))
        self._tasks = [asyncio.create_task(self._compile(job, target)) for job in jobs]

    def stop(self) -> None:
        """End the builders and begin nothing more."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()

    def _announce(self, model: FoundModel) -> list[Job]:
        """An entry for every version, or one that says why the model cannot be served."""
        if model.error is not None or model.config is None:
            reason = model.error or "it has no configuration"
            log.error("model %s: %s", model.name, reason)
            for version in model.versions or ("",):
                self._on_change(Entry(model.name, version, State.UNAVAILABLE, reason))
            return []
        for version in model.versions:
            self._on_change(entry_of(model.config, version, State.LOADING, "waiting to be compiled"))
        return [Job(model, version, model.config) for version in model.versions]

    async def _compile(self, job: Job, target: Target) -> None:
        async with self._jobs:
            loop = asyncio.get_running_loop()
            entry = entry_of(job.config, job.version, State.LOADING, "compiling")
            self._on_change(entry)

            told = ""

            def report(progress: Progress) -> None:
                """In the compiling thread, every second: tell what is new; raising ends the builder."""
                nonlocal told
                if self._is_stopping:
                    raise Stopping
                now = describe_progress(progress)
                if now != told:
                    told = now
                    log.info("model %s version %s: %s (%.1f s)", entry.name, entry.version, now, progress.elapsed_s)
                    changed = msgspec.structs.replace(entry, reason=f"compiling: {now}")
                    loop.call_soon_threadsafe(self._on_change, changed)

            started = time.monotonic()
            try:
                artifact = await asyncio.to_thread(self._artifact, job, target, report)
            except Stopping:
                return
            except CompileError as error:
                self._fail(entry, str(error))
            except Exception:  # the fault of this server: the others must go on all the same
                log.exception("model %s version %s", entry.name, entry.version)
                self._fail(entry, "internal error while compiling: the server's log has the details")
            else:
                self._done(entry, artifact, time.monotonic() - started)

    def _artifact(self, job: Job, target: Target, report: Callable[[Progress], None]) -> Artifact:
        source = source_of(job.model, job.version, self._settings.trust)
        options = to_options(job.config, self._settings.threads, self._settings.compile_timeout_s)
        return compiler.compile(source, options, target, self._cache, report)

    def _fail(self, entry: Entry, reason: str) -> None:
        log.error("model %s version %s: %s", entry.name, entry.version, reason)
        self._on_change(msgspec.structs.replace(entry, state=State.UNAVAILABLE, reason=reason))

    def _done(self, entry: Entry, artifact: Artifact, seconds: float) -> None:
        manifest = artifact.manifest
        CACHE.labels("hit" if artifact.cached else "miss").inc()
        for stage, spent in manifest.stage_seconds.items():
            COMPILE.labels(entry.name, entry.version, stage).set(spent)
        self._on_artifact(
            msgspec.structs.replace(
                entry,
                reason="the engine is loading it",
                inputs=manifest.inputs,
                outputs=manifest.outputs,
                max_batch_size=manifest.max_batch_size,
                buckets=manifest.buckets,
                backend=manifest.backend,
                precision=manifest.precision,
                device=manifest.target.device,
                origin="cache" if artifact.cached else "compiled",
                seconds=seconds,
            ),
            artifact,
        )


def describe_progress(progress: Progress) -> str:
    """`build inductor`: the stage and the candidate, which change a few times, unlike the message and the time."""
    return f"{progress.stage} {progress.candidate}" if progress.candidate else progress.stage


def entry_of(config: ModelConfig, version: str, state: State, reason: str) -> Entry:
    """What is known of a version before it is compiled."""
    return Entry(
        name=config.name,
        version=version,
        state=state,
        reason=reason,
        description=config.description,
        inputs=config.inputs or (),
        outputs=config.outputs or (),
        max_batch_size=config.max_batch_size or 0,
        labels=config.labels,
        images=config.images,
        batching=config.batching,
        instances=config.instances,
    )
