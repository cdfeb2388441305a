"""In the parent: loads and unloads models while others serve, on a client's word or as the repository changes.

What serves goes on until its successor is ready everywhere, and through a successor that cannot be loaded. Knows no
protocol: `registrar.py` brings a client's word, `loading.py` makes artifacts, `deployment.py` brings them to engines.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, Protocol

from compiler.spec import TensorSpec
from service.deployment import GIVEN_UP, Deployment
from service.describe import not_loaded
from service.engine.fleet import Key
from service.engine.messages import LoadModel, UnloadModel
from service.ensembles import called_only_by
from service.errors import InvalidInput, NotFound, ServiceError
from service.repository.catalog import Entry
from service.repository.model_config import MODEL_NAME
from service.repository.poller import Look, changes, look
from service.repository.steps import forget_steps
from service.repository.storage import FoundModel, RepositoryError, find, members, model_folders
from service.repository.uploads import is_upload, remove_upload
from service.settings import Settings

log = logging.getLogger("torchere.parent")

EVERYTHING = "*"
UNLOADED = "unloaded"


class Loads(Protocol):
    """What is asked of `loading.Loader`."""

    def begin(self, model: FoundModel, beside: Collection[str]) -> None: ...
    def give_up(self, name: str) -> None: ...


class ModelControl:
    """`everyone_follows()` returns when every frontend goes by what the deployment last published."""

    def __init__(
        self,
        settings: Settings,
        loader: Loads,
        deployment: Deployment,
        everyone_follows: Callable[[], Awaitable[None]],
        runtime_directory: Path,
    ) -> None:
        self._settings = settings
        self._loader = loader
        self._deployment = deployment
        self._everyone_follows = everyone_follows
        self._runtime_directory = runtime_directory
        self._turns: dict[str, asyncio.Lock] = {}
        self._departures: Counter[str] = Counter()  # how often each was unloaded
        self._uploads: dict[str, Path] = {}  # model -> the folder that its files came to
        self._asked_for = set(settings.load_model)  # by name; others were loaded because an ensemble calls them
        self._retiring: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ModelControl {self._settings.model_control_mode}, {len(self._uploads)} from uploads>"

    @property
    def wanted_at_start(self) -> Collection[str] | None:
        """The models to load at the start; None: all."""
        if self._settings.model_control_mode != "explicit" or EVERYTHING in self._settings.load_model:
            return None
        return self._settings.load_model

    async def load(self, change: LoadModel) -> None:
        """Load or reload a model. Raises a ServiceError; what served before serves on then."""
        upload = Path(change.upload) if change.upload else None
        try:
            override = json.loads(change.override) if change.override else {}
            for name in await self._missing_members(change.name, override, upload):
                await self._load(name, {}, None)
            await self._load(change.name, override, upload)
        except BaseException:
            if upload is not None:
                remove_upload(self._runtime_directory, upload)
            raise
        self._asked_for.add(change.name)
        self._replace_upload(change.name, upload)

    async def unload(self, change: UnloadModel) -> None:
        """Serve a model no more. Raises NotFound."""
        leaving = [change.name]
        if change.with_members and EVERYTHING not in self._asked_for:
            leaving += called_only_by(change.name, self._deployment.catalog, keep=self._asked_for)
        for name in leaving:
            self._deployment.catalog.versions(name)  # NotFound where there are none
            await self._leave(name, is_there=True)
            self._asked_for.discard(name)
            self._replace_upload(name, None)

    def retire(self, key: Key, keep: int) -> None:
        """Only the contract `keep` of a version serves on: the engines let go of others when nobody sends to them."""

        async def retire() -> None:
            await self._everyone_follows()
            await self._deployment.unload(key, keep).wait()
            folders = self._deployment.step_folders(key)
            await asyncio.to_thread(forget_steps, self._runtime_directory, key, folders, time.time())

        task = asyncio.get_running_loop().create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def poll(self) -> None:
        """Follow the repository until cancelled; what one model takes to compile keeps no other waiting."""
        served = before = await asyncio.to_thread(self._look)
        async with asyncio.TaskGroup() as following:
            while True:
                await asyncio.sleep(self._settings.poll_interval_s)
                try:
                    now = await asyncio.to_thread(self._look)
                except RepositoryError as error:
                    log.warning("%s: what serves goes on", error)
                    continue
                found = changes(served, before, now)
                for name in (*found.came, *found.changed):
                    following.create_task(self._follow_change(name))
                    served = {**served, name: now[name]}
                for name in found.went:
                    following.create_task(self._follow_loss(name))
                    served = {other: files for other, files in served.items() if other != name}
                before = now

    def _look(self) -> dict[str, Look]:
        wanted = self._settings.models
        folders = model_folders(self._settings.model_repository)
        known = {*wanted, *(entry.name for entry in self._deployment.catalog.entries())}
        return {name: look(folder) for name, folder in folders.items() if not wanted or name in known}

    async def _follow_change(self, name: str) -> None:
        try:
            await self._load(name, {}, None)
            log.info("model %s: loaded as it is in the repository now", name)
        except ServiceError as error:
            log.error("model %s has changed: %s", name, error)
        except Exception:  # a fault of this server: other models are followed all the same
            log.exception("model %s has changed", name)

    async def _follow_loss(self, name: str) -> None:
        try:
            await self._leave(name, is_there=False)
            log.info("model %s has gone from the repository and is unloaded", name)
        except Exception:  # as above
            log.exception("model %s has gone", name)

    def _turn(self, name: str) -> asyncio.Lock:
        """One change of a model at a time."""
        return self._turns.setdefault(name, asyncio.Lock())

    async def _leave(self, name: str, *, is_there: bool) -> None:
        """Serve a model no more. What is being made of it, or shall be, is given up first: that may take long."""
        self._departures[name] += 1
        self._loader.give_up(name)
        self._deployment.given_up(name)
        async with self._turn(name):
            keys = [_key(entry) for entry in self._deployment.catalog.entries() if entry.name == name]
            await self._unload(keys, is_there=is_there)

    def _replace_upload(self, name: str, upload: Path | None) -> None:
        before = self._uploads.pop(name, None)
        if before is not None:
            remove_upload(self._runtime_directory, before)
        if upload is not None:
            self._uploads[name] = upload

    async def _missing_members(self, name: str, override: dict[str, Any], upload: Path | None) -> list[str]:
        """What an ensemble calls and does not serve yet, those first that others call. Raises as `_find`."""
        found: list[str] = []
        catalog, seen = self._deployment.catalog, {name}

        async def look_into(model: FoundModel) -> None:
            for member in members(model):
                if member not in seen:
                    seen.add(member)
                    if not catalog.has(member) or not catalog.entry(member).is_ready:
                        await look_into(await asyncio.to_thread(self._find_member, model.name, member))
                        found.append(member)

        await look_into(await asyncio.to_thread(self._find, name, override, upload))
        return found

    def _find_member(self, ensemble: str, name: str) -> FoundModel:
        try:
            return self._find(name, {}, None)
        except NotFound as error:
            raise InvalidInput(f"model '{ensemble}' cannot be loaded: it calls an {error}") from error

    async def _load(self, name: str, override: dict[str, Any], upload: Path | None) -> None:
        departures = self._departures[name]
        async with self._turn(name):
            model = await asyncio.to_thread(self._find, name, override, upload)
            if self._departures[name] != departures:
                raise InvalidInput(f"model '{name}' was not loaded: {GIVEN_UP}")
            await self._load_found(model)

    async def _load_found(self, model: FoundModel) -> None:
        name = model.name
        loaded = [entry for entry in self._deployment.catalog.entries() if entry.name == name]
        beside = {entry.version for entry in loaded if entry.is_ready}
        self._loader.begin(model, beside)
        awaited = {version: self._deployment.expect((name, version)) for version in model.versions}
        for version, outcome in awaited.items():
            reason = await outcome
            if reason:
                rest = "; what served before serves on" if beside and reason != GIVEN_UP else ""
                raise InvalidInput(self._plain(f"model '{name}' version {version} was not loaded: {reason}{rest}"))
        await self._everyone_follows()
        old = [_key(entry) for entry in loaded if entry.version not in model.versions]
        await self._unload(old, is_there=False)

    def _find(self, name: str, override: dict[str, Any], upload: Path | None) -> FoundModel:
        """The model as it shall be loaded. Raises NotFound or InvalidInput."""
        unknown = NotFound(f"unknown model '{name[:128]}': the model repository has none of that name")
        chosen = self._settings.models
        if not MODEL_NAME.fullmatch(name) or (chosen and name not in chosen and not self._deployment.catalog.has(name)):
            raise unknown
        if upload is not None and not is_upload(self._runtime_directory, upload):
            raise InvalidInput("the files of the load call are not where they should be")
        try:
            model = find(
                upload or self._settings.model_repository,
                name,
                override if upload else self._without_known_tensors(name, override),
                is_upload=upload is not None,
            )
        except RepositoryError as error:
            raise InvalidInput(self._plain(str(error))) from error
        if model is None:
            raise unknown
        if model.config is None:
            raise InvalidInput(self._plain(f"model '{name}' cannot be loaded: {model.error}"))
        return model

    def _without_known_tensors(self, name: str, override: dict[str, Any]) -> dict[str, Any]:
        """Clients send back what they were told of inputs and outputs: that is no change."""
        entries = [entry for entry in self._deployment.catalog.entries() if entry.name == name and entry.is_ready]
        if not entries:
            return override
        known = {"inputs": _tensors(entries[-1].inputs), "outputs": _tensors(entries[-1].outputs)}
        return {key: value for key, value in override.items() if known.get(key) != value}

    async def _unload(self, keys: Collection[Key], *, is_there: bool) -> None:
        """First the frontends stop sending, then the engines let go."""
        for key in keys:
            self._deployment.leaving(key)
        if keys:
            await self._everyone_follows()
        for event in [self._deployment.unload(key) for key in keys]:
            await event.wait()
        for key in keys:
            self._deployment.removed(key, not_loaded(*key, UNLOADED) if is_there else None)

    def _plain(self, sentence: str) -> str:
        """Without the folders, which are nobody's business."""
        for folder in (self._settings.model_repository, self._settings.cache_dir, *self._runtime_folders()):
            sentence = sentence.replace(f"{folder}/", "")
        return sentence

    def _runtime_folders(self) -> list[Path]:
        uploads = self._runtime_directory / "uploads"
        return [*(uploads.iterdir() if uploads.is_dir() else ()), self._runtime_directory]


def _key(entry: Entry) -> Key:
    return entry.name, entry.version


def _tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [{"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)} for spec in specs]
