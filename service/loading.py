"""From the model repository to artifacts: scans once, finds or makes what can serve soonest, then compiles the rest.

Runs compilations in threads beside the parent's loop; knows nothing of engines. `deployment.py` is told of each step.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from msgspec import structs

import compiler
from compiler import Artifact, Progress
from compiler.cache import Cache
from compiler.errors import CompileError, LoadFailed
from compiler.manifest import Manifest
from compiler.shipping import with_shipped
from compiler.spec import Options, Source, Target
from compiler.target import detect_target
from service.describe import (
    choose_startup,
    describe_artifact,
    describe_progress,
    describe_shortfall,
    entry_of,
    find_difference,
    not_loaded,
)
from service.job import Job, Order
from service.observe.catalog_recorder import CatalogRecorder
from service.repository.catalog import Entry, State
from service.repository.model_config import ModelConfig, to_options
from service.repository.steps import keep_steps
from service.repository.storage import FoundModel, RepositoryError, scan, source_of, with_members
from service.settings import Settings

log = logging.getLogger("torchere.compiler")

NOT_ASKED = "not loaded: nothing has asked for it"
INTERNAL = "internal error while compiling: the server's log has the details"
BESIDE_SERVING = 10  # niceness: the builders of a model that serves already get a tenth of a contended core


class Audience(Protocol):
    """Who is told, and tells of folders with artifacts that are needed no more; a key is (name, version)."""

    let_go: Callable[[str], None]

    def announced(self, entry: Entry) -> None: ...
    def reloading(self, key: tuple[str, str]) -> None: ...
    def progressed(self, key: tuple[str, str], note: str) -> None: ...
    def offered(self, entry: Entry, folder: Path, *, is_final: bool, shortfall: str = "") -> None: ...
    def composed(self, config: ModelConfig, version: str) -> None: ...
    def failed(self, key: tuple[str, str], reason: str) -> None: ...


Report = Callable[[Progress], None]


class Compiler(Protocol):
    """The door of `compiler`, all of it that is used here."""

    def find(self, source: Source, options: Options, target: Target, cache: Cache) -> Artifact | None: ...
    def fallback(self, source: Source, options: Options, target: Target, cache: Cache, report: Report) -> Artifact: ...
    def compile(
        self, source: Source, options: Options, target: Target, cache: Cache, report: Report, niceness: int
    ) -> Artifact: ...


class Stopping(Exception):
    """The service leaves, or the model is to be unloaded: what is being compiled is given up."""


class Loader:
    """`start()` begins; each step is told to `audience`, on the loop's thread."""

    def __init__(
        self,
        settings: Settings,
        device: str,
        audience: Audience,
        runtime_directory: Path,
        compiler_door: Compiler = compiler,
    ) -> None:
        self._compiler = compiler_door
        self._runtime_directory = runtime_directory
        self._settings = settings
        self._device = device
        self._cache = Cache(settings.cache_dir, settings.cache_max_size)
        self._audience, audience.let_go = audience, self._cache.release_folder
        self._recorder = CatalogRecorder()
        self._jobs = asyncio.Semaphore(settings.compile_jobs)
        self._task: asyncio.Task[None] | None = None
        self._later: set[asyncio.Task[None]] = set()
        self._open: list[Job] = []
        self._served: dict[tuple[str, str], Manifest] = {}  # what stands in until the compiler is done
        self._is_stopping = False

    def start(self, only: Collection[str] | None = None) -> None:
        """Scan the repository and begin, with `only` those models and those they call. Raises RepositoryError."""
        target = detect_target(self._device)
        models, jobs = scan(self._settings.model_repository, self._settings.models), []
        missing = set(only or ()) - {model.name for model in models}
        if missing:
            raise RepositoryError(f"--load-model {min(missing)}: there is no such model in the repository")
        wanted = None if only is None else with_members(models, only)
        for model in models:
            if wanted is None or model.name in wanted:
                jobs.extend(self._announce(model))
            else:
                for version in model.versions or ("",):
                    self._audience.announced(not_loaded(model.name, version, NOT_ASKED))
        self._task = asyncio.create_task(self._work(jobs, target))

    def begin(self, model: FoundModel, beside: Collection[str]) -> None:
        """Load a model while others serve: again, where its versions `beside` serve already."""
        assert model.config is not None, "a model with an error cannot be loaded"
        self.give_up(model.name)
        jobs = []
        for version in model.versions:
            is_beside = version in beside
            job = self._job(model, model.config, version, is_beside)
            self._served.pop(job.key, None)
            if is_beside:
                self._audience.reloading(job.key)
            else:
                entry = entry_of(model.config, version, State.LOADING, "waiting to be compiled")
                self._audience.announced(structs.replace(entry, is_awaited=False))
            jobs.append(job)
        task = asyncio.create_task(self._work(jobs, detect_target(self._device)))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def give_up(self, name: str) -> None:
        """Make nothing more of a model."""
        for job in self._open:
            if job.config.name == name:
                job.given_up.set()
        self._open = [job for job in self._open if not job.given_up.is_set()]

    def stop(self) -> None:
        """End the builders and begin nothing more."""
        self._is_stopping = True
        for task in [*self._later, *([self._task] if self._task is not None else [])]:
            task.cancel()

    def _announce(self, model: FoundModel) -> list[Job]:
        """An entry for every version, or one that says why the model cannot be served."""
        if model.error is not None or model.config is None:
            reason = model.error or "it has no configuration"
            log.error("model %s: %s", model.name, reason)
            for version in model.versions or ("",):
                self._audience.announced(Entry(model.name, version, State.UNAVAILABLE, reason))
            return []
        for version in model.versions:
            self._audience.announced(entry_of(model.config, version, State.LOADING, "waiting to be compiled"))
        return [self._job(model, model.config, version, is_beside=False) for version in model.versions]

    def _job(self, model: FoundModel, config: ModelConfig, version: str, is_beside: bool) -> Job:
        startup = "wait" if is_beside else choose_startup(config, self._settings.startup)
        trust_all = self._settings.trust_uploads if model.is_upload else self._settings.trust
        job = Job(model, version, config, startup, trust_all, is_beside)
        self._open.append(job)
        return job

    async def _work(self, jobs: list[Job], target: Target) -> None:
        """Let every model serve as soon as it can; then compile, those first for which nothing serves."""
        is_open = await asyncio.gather(*(self._serve_soon(job, target) for job in jobs))
        await asyncio.to_thread(self._measure_cache)
        slow = [job for job, more in zip(jobs, is_open, strict=True) if more]
        slow.sort(key=lambda job: job.is_beside or job.key in self._served)
        await asyncio.gather(*(self._compile(job, target) for job in slow))
        self._open = [job for job in self._open if job not in jobs]

    async def _serve_soon(self, job: Job, target: Target) -> bool:
        """Offer what the cache has, or else the fallback; True where the model remains to be compiled."""
        started = time.monotonic()
        try:
            if job.config.ensemble is not None:
                self._check_wanted(job)
                self._audience.composed(job.config, job.version)
                return False
            order = await asyncio.to_thread(self._prepare, job)
            self._check_wanted(job)
            found = await asyncio.to_thread(self._compiler.find, order.source, order.options, target, order.cache)
            self._check_wanted(job)
            if found is not None:
                self._offer(job, order.config, found, "cache", time.monotonic() - started)
                return False
            if job.startup == "fallback":
                await self._fall_back(job, order, target)
        except Stopping:
            return False
        except LoadFailed as error:  # the compiler would say the same
            self._fail(job, str(error))
            return False
        except CompileError as error:
            log.warning("%s cannot serve before it is compiled: %s", job, error)
        except Exception:  # the fault of this server: the others must go on all the same
            log.exception("%s", job)
            self._fail(job, INTERNAL)
            return False
        return True

    async def _fall_back(self, job: Job, order: Order, target: Target) -> None:
        async with self._jobs:
            started = time.monotonic()
            report = self._reporter(job, "fallback: ")
            artifact = await asyncio.to_thread(
                self._compiler.fallback, order.source, order.options, target, self._cache, report
            )
        self._check_wanted(job)
        self._served[job.key] = artifact.manifest
        self._audience.progressed(job.key, "waiting for its turn")
        entry = describe_artifact(order.config, job.version, artifact.manifest, "fallback", time.monotonic() - started)
        self._audience.offered(entry, artifact.folder, is_final=False)

    async def _compile(self, job: Job, target: Target) -> None:
        async with self._jobs:
            started = time.monotonic()
            try:
                self._check_wanted(job)
                self._audience.progressed(job.key, "starting")
                artifact, config = await asyncio.to_thread(self._build, job, target, self._reporter(job))
                self._check_wanted(job)
                self._check_same(job, artifact.manifest)
                origin = "cache" if artifact.cached else "compiled"
                self._offer(job, config, artifact, origin, time.monotonic() - started)
                await asyncio.to_thread(self._measure_cache)
            except Stopping:
                return
            except CompileError as error:
                self._fail(job, str(error))
            except Exception:  # the fault of this server: the others must go on all the same
                log.exception("%s", job)
                self._fail(job, INTERNAL)

    def _prepare(self, job: Job) -> Order:
        source = source_of(job.model, job.version, job.trust_all)
        options = to_options(job.config, self._settings.threads, self._settings.compile_timeout_s)
        config = keep_steps(job.model, job.version, job.trust_all, self._runtime_directory)
        return Order(source, options, with_shipped(self._cache, source, job.config.trust or job.trust_all), config)

    def _build(self, job: Job, target: Target, report: Report) -> tuple[Artifact, ModelConfig]:
        order = self._prepare(job)
        niceness = BESIDE_SERVING if job.is_beside or job.key in self._served else 0
        artifact = self._compiler.compile(order.source, order.options, target, order.cache, report, niceness)
        return artifact, order.config

    def _reporter(self, job: Job, prefix: str = "") -> Report:
        """What is called in the compiling thread every second: it tells what is new; raising ends the builder."""
        loop, told = asyncio.get_running_loop(), ""

        def report(progress: Progress) -> None:
            nonlocal told
            self._check_wanted(job)
            now = prefix + describe_progress(progress)
            if now != told:
                told = now
                log.info("%s: %s (%.1f s)", job, now, progress.elapsed_s)
                loop.call_soon_threadsafe(self._audience.progressed, job.key, now)

        return report

    def _measure_cache(self) -> None:
        with contextlib.suppress(OSError):  # whoever needs it says what is wrong with it
            size = sum(entry.size for entry in (*self._cache.list(), *self._cache.list_aside()))
            self._recorder.cached(size, self._cache.max_bytes)

    def _fail(self, job: Job, reason: str) -> None:
        if not job.given_up.is_set():
            self._audience.failed(job.key, reason)

    def _check_wanted(self, job: Job) -> None:
        """Raises Stopping where nothing of the job is wanted any more."""
        if self._is_stopping or job.given_up.is_set():
            raise Stopping

    def _check_same(self, job: Job, manifest: Manifest) -> None:
        """The winner must fit the requests that wait already, and answer as the fallback did. Raises LoadFailed."""
        served = self._served.get(job.key)
        difference = find_difference(served, manifest) if served is not None else ""
        if difference:
            raise LoadFailed(f"what was compiled cannot replace what serves, since {difference}: start again to use it")

    def _offer(self, job: Job, config: ModelConfig, artifact: Artifact, origin: str, seconds: float) -> None:
        manifest = artifact.manifest
        hybrid = manifest.chosen.hybrid
        self._recorder.compiled(job.key, artifact.cached, manifest.stage_seconds)
        self._recorder.raced(job.key, ((each.backend, each.precision, each.outcome) for each in manifest.ladder))
        if hybrid is not None:
            self._recorder.covered(job.key, hybrid.operator_coverage, hybrid.parameter_coverage)
        entry = describe_artifact(config, job.version, manifest, origin, seconds)
        self._audience.offered(entry, artifact.folder, is_final=True, shortfall=describe_shortfall(manifest))
