"""Keeps the Python steps of a version as they are when it is loaded: a copy, under a name that tells what is in it.

What serves then goes on with its own files, also in an engine that is started again, however the repository changes.
Runs nothing. `loading.py` asks, `engine/surround.py` lets a process load what was kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from msgspec import structs

from compiler.errors import LoadFailed
from compiler.source import BESIDE, FOREIGN, MAIN_FILES, WEIGHTS_NAME
from compiler.trust import check_steps
from service.repository.model_config import ModelConfig
from service.repository.scheduling import GENERATE, POSTPROCESS, PREPROCESS, Steps
from service.repository.storage import ARTIFACTS_NAME, FoundModel

log = logging.getLogger("torchere.parent")

STEPS = "steps"
OF_THE_MODEL = {*MAIN_FILES, WEIGHTS_NAME, *BESIDE, *FOREIGN, ARTIFACTS_NAME, "__pycache__"}
NEW_S = 24 * 3600.0  # longer than any compilation, for which the copy is made before
MAX_BYTES = 1 << 30  # vocabularies are megabytes; the folder of temporary files may be memory


def keep_steps(model: FoundModel, version: str, trust_all: bool, runtime_directory: Path) -> ModelConfig:
    """The model's configuration, its steps with the folder in which they are kept; as it is where there are none.

    Raises LoadFailed where a file that is declared is missing, or nobody trusts it.
    """
    config = model.config
    assert config is not None, "a model with an error has no steps"
    source = model.folder / version
    _tell_undeclared(source, config.steps)
    if config.steps is None:
        return config
    for name in config.steps.files:
        if not (source / name).is_file():
            word = name.removesuffix(".py")
            raise LoadFailed(f"{source} lacks {name}: write it, or remove `{word}` from model.yaml")
    check_steps(source, config.steps.files, trusted=config.trust or trust_all)
    try:
        kept = _keep(source, runtime_directory / STEPS / config.name / version)
    except OSError as error:
        raise LoadFailed(f"{error.filename or source} cannot be copied: {error.strerror}") from error
    return structs.replace(config, steps=structs.replace(config.steps, folder=str(kept)))


def _tell_undeclared(source: Path, steps: Steps | None) -> None:
    """Who writes a step file and no word of it in model.yaml would wait for its effect in vain."""
    for name in (PREPROCESS, POSTPROCESS, GENERATE):
        if (steps is None or name not in steps.files) and (source / name).is_file():
            word = name.removesuffix(".py")
            log.warning("%s is not used: model.yaml says nothing of it: declare `%s`", source / name, word)


def forget_steps(runtime_directory: Path, key: tuple[str, str], in_use: Collection[str], now: float) -> None:
    """Remove the copies of a version that are not in use; those made lately may be about to be."""
    parent = runtime_directory / STEPS / key[0] / key[1]
    for copy in parent.iterdir() if parent.is_dir() else ():
        if str(copy) not in in_use and copy.stat().st_mtime < now - NEW_S:
            shutil.rmtree(copy, ignore_errors=True)


def _keep(source: Path, parent: Path) -> Path:
    """Copy first and look at the copy: files may change meanwhile."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(dir=parent))
    try:
        state, size = hashlib.sha256(), 0
        for name in sorted(_files(source)):
            size += (source / name).stat().st_size
            if size > MAX_BYTES:
                raise LoadFailed(
                    f"{source} has more than {MAX_BYTES} bytes beside the model, which each load copies: move away "
                    "what the Python steps do not need"
                )
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy / name)
            content = (copy / name).read_bytes()
            state.update(f"{len(name)}:{name}{len(content)}:".encode())
            state.update(content)
        place = parent / state.hexdigest()
        if not place.exists():
            copy.rename(place)
        os.utime(place)
        return place
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _files(source: Path) -> Iterator[str]:
    """All that lies in a version's folder but the model itself; links to files as what they lead to."""
    for parent, folders, names in os.walk(source):
        is_top = Path(parent) == source
        hidden = OF_THE_MODEL if is_top else {"__pycache__"}
        folders[:] = [name for name in folders if name not in hidden and not name.startswith(".")]
        for name in names:
            if name not in hidden and not name.startswith("."):
                yield str((Path(parent) / name).relative_to(source))
