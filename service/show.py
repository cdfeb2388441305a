"""What `torchere models show` does: prints again what was compiled, from the cache, with no server and nothing built.

Looks models up as `precompile.py` compiles them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

import compiler
from compiler import Artifact
from compiler.errors import CompileError
from compiler.spec import Target
from service.local_models import LocalModel, find_models, find_target
from service.report.page import Compiled, write_page
from service.report.tables import complain, make_console, print_manifest
from service.repository.storage import RepositoryError
from service.settings import Settings


def show_model(settings: Settings, version: str, as_json: bool, page: Path | None) -> bool:
    """Print the artifact of the one model that `settings` choose; False where there is none."""
    errors = make_console(stderr=True)
    try:
        target = find_target(settings)
        model = _choose(list(find_models(settings)), version)
        artifact = _find(model, target)
    except (CompileError, RepositoryError) as error:
        return complain(errors, f"error: {error}")
    if page is not None:
        try:
            write_page([Compiled(model.title, artifact.manifest, True, artifact.seconds)], page)
        except OSError as error:
            return complain(errors, f"{page} cannot be written: {error.strerror}")
    console = make_console()
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(artifact.manifest), indent=1).decode())
        return True
    print_manifest(console, model.title, artifact.manifest)
    console.print(f"{artifact.folder}", style="dim", soft_wrap=True)
    return True


def _choose(models: list[LocalModel], version: str) -> LocalModel:
    """The version asked for, else the highest. Raises RepositoryError."""
    if len({model.name for model in models}) != 1:
        names = ", ".join(sorted({model.name for model in models})) or "none that is here"
        raise RepositoryError(f"an ensemble is not compiled; its models are: ask for one of them: {names}")
    for model in reversed(models):
        if version in ("", model.version):
            return model
    known = ", ".join(model.version for model in models)
    raise RepositoryError(f"model '{models[0].name}' has no version '{version}' to be served: there are {known}")


def _find(model: LocalModel, target: Target) -> Artifact:
    """Raises RepositoryError with the way to get one."""
    if model.source is None:
        raise RepositoryError(f"{model.title}: {model.error}")
    found = compiler.find(model.source, model.options, target, model.cache)
    if found is None:
        raise RepositoryError(
            f"{model.title} is not compiled for this machine with these settings: `torchere compile {model.name}` does "
            "it, and with --dry-run says what is different from what there is"
        )
    return found
