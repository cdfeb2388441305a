"""What `torchere compile` does: every model of a repository into the cache, with live progress, then its ladder.

Uses the same scan, options and compiler as `serve`, so that what it leaves is what a later start finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

import compiler
from compiler import Artifact
from compiler.errors import CompileError, LoadFailed
from compiler.explain import explain_miss, known_manifests
from compiler.key import digest, key_parts
from compiler.shipping import ship
from compiler.source import origin_of
from compiler.spec import Source, Target
from service.local_models import LocalModel, find_models, find_target
from service.report.figures import bytes_text, printable, seconds_text
from service.report.live import Display
from service.report.page import Compiled, write_page
from service.report.tables import complain, make_console, print_manifest
from service.repository.storage import RepositoryError
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Wishes:
    """What else to do with each model: a page to write, a miss to explain, nothing to compile, a copy to ship."""

    page: Path | None = None
    explain: bool = False
    dry_run: bool = False
    into_repository: bool = False


def precompile(settings: Settings, wishes: Wishes = Wishes()) -> bool:
    """Compile every chosen version; True where all succeeded."""
    console = make_console()
    try:
        target = find_target(settings)
        models = list(find_models(settings))
    except (CompileError, RepositoryError) as error:
        return complain(console, f"error: {error}")
    compiled, is_done = [], True
    for model in models:  # each, whatever becomes of the others
        try:
            done = _take(model, target, wishes, console)
        except (CompileError, OSError) as error:
            is_done = complain(console, f"{model.title}: {error}")
        else:
            compiled += [done] if done is not None else []
    if wishes.page is not None and compiled:
        is_done = _write(compiled, wishes.page, console) and is_done
    return is_done


def _take(model: LocalModel, target: Target, wishes: Wishes, console: Console) -> Compiled | None:
    """The compiled model; None where nothing was to be compiled. Raises CompileError or OSError."""
    if model.source is None:
        raise LoadFailed(model.error)
    if wishes.explain or wishes.dry_run:
        _explain(model, model.source, target, console)
    if wishes.dry_run:
        return None
    with Display(console, model.title) as display:
        artifact = compiler.compile(model.source, model.options, target, model.cache, display.hear)
    _show(model, artifact, console)
    if wishes.into_repository:
        _ship(model.source, artifact, console)
    return Compiled(model.title, artifact.manifest, artifact.cached, artifact.seconds)


def _show(model: LocalModel, artifact: Artifact, console: Console) -> None:
    print_manifest(console, model.title, artifact.manifest)
    if artifact.folder.parent in model.cache.shipped:
        origin = "shipped with the model, looked up"
    else:
        origin = "from the cache" if artifact.cached else "compiled"
    console.print(f"{origin} in {seconds_text(artifact.seconds)}: {artifact.folder}", style="dim", soft_wrap=True)


def _explain(model: LocalModel, source: Source, target: Target, console: Console) -> None:
    """Whether there is an artifact, and if not, what is different from the nearest there is."""
    if compiler.find(source, model.options, target, model.cache) is not None:
        console.print(f"{model.title}: hit, nothing has changed", markup=False, soft_wrap=True)
        return
    parts = key_parts(source, model.options, target)
    fault = model.cache.verify(digest(parts)) if (model.cache.root / digest(parts)).exists() else None
    if fault is not None:
        console.print(f"{model.title}: miss, its artifact is not sound: {fault}", markup=False, soft_wrap=True)
        return
    miss = explain_miss(parts, origin_of(source.folder), known_manifests(model.cache))
    console.print(f"{model.title}: miss, {_compared(miss.how, len(miss.changes))}", markup=False, soft_wrap=True)
    width = max((len(change.name) for change in miss.changes), default=0)
    for change in miss.changes:
        line = Text(f"  {change.name:<{width}}  ")
        line.append(printable(change.old if change.old is not None else "(none)"), style="red")
        line.append(" -> ")
        line.append(printable(change.new if change.new is not None else "(none)"), style="green")
        console.print(line, soft_wrap=True)


def _compared(how: str, changes: int) -> str:
    if how.startswith("there is no"):
        return how
    if not changes:  # a tool that a rung lacked is here now
        return f"though the key is that of {how}: a rung was skipped for want of a tool that is here now"
    return f"compared with {how}"


def _ship(source: Source, artifact: Artifact, console: Console) -> None:
    place = ship(artifact.folder, source.folder)
    size = sum(entry.size for entry in artifact.manifest.files)
    console.print(f"shipped with the model: {place}, {bytes_text(size)}", soft_wrap=True)


def _write(compiled: list[Compiled], page: Path, console: Console) -> bool:
    try:
        write_page(compiled, page)
    except OSError as error:
        return complain(console, f"{page} cannot be written: {error.strerror}")
    console.print(f"report: {page}", soft_wrap=True)
    return True
