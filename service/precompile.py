"""What `torchere compile` does: every model of a repository into the cache, with live progress, then its ladder.

Uses the same scan, options and compiler as `serve`, so that what it leaves is what a later start finds.
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import compiler
from compiler import Artifact, Progress
from compiler.cache import Cache
from compiler.errors import CompileError
from compiler.manifest import Candidate, Manifest
from compiler.spec import Target
from compiler.target import detect_devices, detect_target
from service.repository.config import to_options
from service.repository.storage import FoundModel, RepositoryError, scan, source_of
from service.settings import Settings

PLAIN_WIDTH = 140  # where the output is a file or a pipe, lines must not be folded at 80
COLORS = {"chosen": "green", "failed": "red", "inaccurate": "red"}


def precompile(settings: Settings) -> bool:
    """Compile every chosen version; True where all succeeded."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    try:
        target = detect_target(detect_devices()[0] if settings.device == "auto" else settings.device)
        found = scan(settings.model_repository, settings.models)
    except (CompileError, RepositoryError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return False
    cache = Cache(settings.cache_dir)
    results = [_compile_model(model, settings, target, cache, console) for model in found]  # each, whatever the others
    return all(results)


def _compile_model(model: FoundModel, settings: Settings, target: Target, cache: Cache, console: Console) -> bool:
    if model.error is not None or model.config is None:
        console.print(f"{model.name}: {model.error}", style="red", markup=False, soft_wrap=True)
        return False
    is_done = True
    for version in model.versions:
        title = f"{model.name} version {version}"
        try:
            source = source_of(model, version, settings.trust)
            options = to_options(model.config, settings.threads, settings.compile_timeout_s)
            with console.status(f"{title}: looking into the cache") as status:

                def report(progress: Progress, title: str = title, status: object = status) -> None:
                    line = f"{title}: {progress.message} ({progress.elapsed_s:.0f} s)"
                    if console.is_terminal:
                        status.update(escape(line))  # type: ignore[attr-defined]
                    else:
                        console.print(line, markup=False, highlight=False)

                artifact = compiler.compile(source, options, target, cache, report)
        except CompileError as error:
            console.print(f"{title}: {error}", style="red", markup=False, soft_wrap=True)
            is_done = False
        else:
            _show(title, artifact, console)
    return is_done


def _show(title: str, artifact: Artifact, console: Console) -> None:
    manifest = artifact.manifest
    origin = "from the cache" if artifact.cached else "compiled"
    console.print(
        ladder_table(
            f"{title}: {manifest.backend} {manifest.precision}, {origin} in {artifact.seconds:.1f} s", manifest
        )
    )


def ladder_table(title: str, manifest: Manifest) -> Table:
    """Every candidate: what became of it, how far from the reference, how fast at each batch size."""
    table = Table(title=escape(title), title_justify="left")
    buckets = sorted({bucket for rung in manifest.ladder for bucket in rung.milliseconds})
    for column in (
        "backend",
        "precision",
        "outcome",
        "error",
        *(f"ms, batch {bucket}" for bucket in buckets),
        "build s",
        "reason",
    ):
        table.add_column(column, justify="right" if column.startswith(("ms", "build")) else "left", overflow="fold")
    for rung in manifest.ladder:
        table.add_row(*_row(rung, buckets), style=COLORS.get(rung.outcome))
    return table


def _row(rung: Candidate, buckets: list[int]) -> list[str]:
    worst = max((error.relative_l2 for error in rung.errors), default=None)
    times = [f"{rung.milliseconds[bucket]:.3f}" if bucket in rung.milliseconds else "" for bucket in buckets]
    return [
        rung.backend,
        rung.precision,
        rung.outcome,
        "" if worst is None else f"{worst:.1e}",
        *times,
        f"{rung.build_seconds:.1f}",
        escape(rung.reason),
    ]
