"""Finds the models in a repository: each with its configuration and versions, or the reason why it cannot be served.

Opens no model. `config.py` reads each model.yaml, `versions.py` chooses; `source_of` gives what is compiled.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from compiler.source import find_source
from compiler.spec import Source
from compiler.trust import check_trust
from service.nearest import nearest
from service.repository.config import CONFIG_NAME, ConfigError, read_config
from service.repository.model_config import MODEL_NAME, ModelConfig
from service.repository.versions import Latest, choose_versions, find_versions, missing_versions

ARTIFACTS_NAME = "artifacts"  # compiled elsewhere and shipped with the model
ENSEMBLE_VERSION = "1"  # of an ensemble that has no folders of versions, as it needs none
NOT_MODELS = {"lost+found"}  # every ext4 volume has it at its root


class RepositoryError(Exception):
    """There is no repository to read, or it lacks a model that was asked for by name."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model. `versions` are those to serve, lowest first; `config` is None exactly where `error` says why."""

    name: str
    folder: Path
    config: ModelConfig | None
    versions: tuple[str, ...]
    error: str | None = None
    is_upload: bool = False  # its files came over the network: nobody has given a word for them


def scan(repository: Path, only: Sequence[str] = ()) -> tuple[FoundModel, ...]:
    """Every model in `repository` by name, or `only` those and what they call as ensembles.

    A broken model is found with its error, beside the others.

    Folders whose names begin with "." or "_" are not models. Raises RepositoryError.
    """
    folders = model_folders(repository)
    for name in only:
        if name not in folders:
            remedy = nearest(name, sorted(folders)) if folders else "there are none"
            raise RepositoryError(f"the model repository {repository} has no model '{name}': {remedy}")
    models: dict[str, FoundModel] = {}
    left = list(only or folders)
    while left:
        name = left.pop()
        if name in folders and name not in models:
            models[name] = _find(repository, folders[name])
            left.extend(members(models[name]))
    return tuple(models[name] for name in sorted(models))


def members(found: FoundModel) -> tuple[str, ...]:
    """The models that an ensemble calls; none for others."""
    if found.config is None or found.config.ensemble is None:
        return ()
    return tuple(dict.fromkeys(step.model for step in found.config.ensemble.steps))


def with_members(models: Iterable[FoundModel], names: Collection[str]) -> set[str]:
    """`names`, and the names of what these call as ensembles."""
    known = {model.name: model for model in models}
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left.extend(members(known[name]) if name in known else ())
    return found


def find(repository: Path, name: str, override: Mapping[str, Any], *, is_upload: bool = False) -> FoundModel | None:
    """One model as it is now, `override` in place of what its model.yaml says; None where there is none."""
    folder = model_folders(repository).get(name)
    if folder is None:
        return None
    found = _find(repository, folder, override)
    if is_upload and found.config is not None:
        return replace(found, config=structs.replace(found.config, trust=False), is_upload=True)
    return found


def source_of(model: FoundModel, version: str, trust_all: bool) -> Source:
    """The files of one version, for the compiler; `trust_all` is the service's word for every model.

    Raises LoadFailed where there is no model, or one that can run code and that nobody trusts.
    """
    assert model.config is not None, "a model with an error has no source"
    config = model.config
    source = find_source(model.folder / version, requires=config.requires, factory=config.factory)
    check_trust(source, trusted=config.trust or trust_all)
    return source


def model_folders(repository: Path) -> dict[str, Path]:
    try:
        return {path.name: path for path in repository.iterdir() if _may_be_model(path)}
    except FileNotFoundError as error:
        raise RepositoryError(
            f"the model repository {repository} does not exist: make it, or name another with --model-repository"
        ) from error
    except OSError as error:
        raise RepositoryError(f"the model repository {repository} cannot be read: {error.strerror}") from error


def _may_be_model(path: Path) -> bool:
    """Also a link that leads nowhere: it becomes a broken model, where silence would hide a volume that is missing."""
    return path.name[0] not in "._" and path.name not in NOT_MODELS and not path.is_file()


def _find(repository: Path, folder: Path, override: Mapping[str, Any] | None = None) -> FoundModel:
    versions: tuple[str, ...] = ()
    try:
        _check_name(folder)
        _check_inside(repository, folder)
        names = [path.name for path in folder.iterdir() if path.is_dir()]
        versions = choose_versions(Latest(), names)  # shown as broken where model.yaml cannot say more
        if not versions and _is_ensemble(folder, override):
            names = [ENSEMBLE_VERSION]
        _check_versions(folder, names)
        for path in _links(folder):
            _check_inside(repository, path)
        config = read_config(folder, override)
        _check_policy(folder, config, names)
        if config.ensemble is not None:
            _check_empty(folder, names)
    except ConfigError as error:
        return FoundModel(folder.name, folder, None, versions, str(error))
    except OSError as error:
        return FoundModel(
            folder.name, folder, None, versions, f"{error.filename or folder} cannot be read: {error.strerror}"
        )
    return FoundModel(folder.name, folder, config, choose_versions(config.version_policy, names))


def _check_name(folder: Path) -> None:
    if not MODEL_NAME.fullmatch(folder.name):
        raise ConfigError(
            f"{folder}: a model's name begins with a letter or digit and holds only letters, digits, '.', '_' and '-', "
            "at most 128 of them: rename the folder"
        )


def _check_inside(repository: Path, path: Path) -> None:
    """A link may lead to another place of the repository (as mounted volumes do it), not to the rest of the machine."""
    target = Path(os.path.realpath(path))  # Path.resolve() raises RuntimeError for a link to itself, before Python 3.13
    if not target.is_relative_to(os.path.realpath(repository)):
        raise ConfigError(f"{path} is a link to {target}, outside the model repository: copy what it links to")


def _links(folder: Path) -> Iterator[Path]:
    """The links among what a server would open: the model's own files, its versions, and what is in those."""
    for path in folder.iterdir():
        if path.is_symlink():
            yield path
        if path.is_dir() and (path.name == ARTIFACTS_NAME or find_versions([path.name])):
            # Walked without following links to folders: each such link is itself checked.
            yield from (inner for inner in path.rglob("*") if inner.is_symlink())


def _check_versions(folder: Path, names: list[str]) -> None:
    if find_versions(names):
        return
    wrong = [name for name in names if name.lstrip("0vV").isdigit()]
    hint = f" ('{wrong[0]}' is not a version: versions are 1, 2, 3, ... )" if wrong else ""
    raise ConfigError(f"{folder} has no version{hint}: put the model's files into {folder / '1'}")


def _is_ensemble(folder: Path, override: Mapping[str, Any] | None) -> bool:
    is_described = bool(override) or (folder / CONFIG_NAME).is_file()
    return is_described and read_config(folder, override).ensemble is not None


def _check_empty(folder: Path, names: list[str]) -> None:
    """An ensemble may have folders of versions, as other servers want them, but nothing is in them."""
    for version in find_versions(names):
        place = folder / version
        found = sorted(path.name for path in place.iterdir() if path.name[0] != ".") if place.is_dir() else []
        if found:
            raise ConfigError(
                f"{place / found[0]} is of no use: {folder / CONFIG_NAME} says that this is an ensemble, which has no "
                "program of its own: remove the file, or `ensemble`"
            )


def _check_policy(folder: Path, config: ModelConfig, names: list[str]) -> None:
    served = choose_versions(config.version_policy, names)
    for label, version in config.version_labels.items():
        if version not in served:
            raise ConfigError(
                f"{folder / CONFIG_NAME}: version_labels: '{label}' is version {version}, which is not served: "
                f"the versions that version_policy serves are {', '.join(served) or 'none'}"
            )
    missing = missing_versions(config.version_policy, names)
    if missing:
        raise ConfigError(
            f"{folder / CONFIG_NAME}: version_policy asks for version {missing[0]}, which is not there: "
            f"the versions are {', '.join(find_versions(names))}"
        )
