"""The state of every version of every model, and what a client may know of it.

Pure state: the parent owns one catalog and applies what happened; each frontend holds the last snapshot it was sent.
`control.py` decides what to load, `plane.py` looks models up.
"""

from __future__ import annotations

import difflib
from enum import StrEnum
from typing import Literal

import msgspec

from compiler.spec import Padding, TensorSpec
from service.errors import NotFound, Unavailable
from service.repository.model_config import Batching, ImageInput
from service.repository.scheduling import Ensemble, Sequencing, Steps

MAX_SHOWN = 128  # characters: no model's name is longer


class State(StrEnum):
    """As the model repository extension names them."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


# "": nothing serves yet. compiling: what serves is the quickest safe artifact, and the builder works beside it.
# optimised: it is the winner of the race. fallback: nothing faster passed, or it could not be loaded.
Optimization = Literal["", "compiling", "optimised", "fallback"]


class Entry(msgspec.Struct, frozen=True):
    """One version of one model. Before it is compiled `inputs` and `outputs` may be empty.

    `reason` says why it is not READY. `is_resuming`: it served, and will again when an engine is back: requests may
    wait for that. `backend`, `precision` and `variant` are of what serves now; `origin` is where it
    came from ("cache", "compiled", or "fallback": the model as it is), `seconds` how long it took to be ready.
    `optimization` says whether a faster one is being made, `progress` what the compiler does, or why it made none.
    """

    name: str
    version: str
    state: State
    reason: str = ""
    description: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    max_batch_size: int = 0
    buckets: tuple[int, ...] = ()
    labels: dict[str, tuple[str, ...]] = {}
    images: tuple[ImageInput, ...] = ()
    batching: Batching = Batching()
    instances: int = 1
    backend: str = ""
    precision: str = ""
    variant: str = ""
    device: str = ""
    origin: str = ""
    seconds: float = 0.0
    optimization: Optimization = ""
    progress: str = ""
    aliases: tuple[str, ...] = ()  # names that stand for this version: "stable", "canary"
    contract: int = 0  # grows when requests must look different, or are batched differently
    artifact: int = 0  # grows with each artifact that is offered: what two of them answer may differ
    is_awaited: bool = True  # False: the service is ready without it, as it was not there from the start
    is_resuming: bool = False
    is_wanted: bool = True  # False: nobody has asked for it, or it was unloaded
    response_cache: bool = False
    defaults: dict[str, bool | int | float | str] = {}  # of inputs that a request may leave out
    sequencing: Sequencing | None = None
    hidden: tuple[TensorSpec, ...] = ()  # inputs that the server fills
    ensemble: Ensemble | None = None
    steps: Steps | None = None

    @property
    def is_ready(self) -> bool:
        return self.state is State.READY

    @property
    def optional(self) -> set[str]:
        """The inputs that a request may leave out."""
        pad = self.pad
        masks = [spec.name for spec in self.inputs if spec.name in pad.masks] if pad is not None else ()
        return {*self.defaults, *masks}

    @property
    def pad(self) -> Padding | None:
        """How inputs of requests are padded: not at all where Python makes the model's inputs of them."""
        steps = self.steps
        is_made = steps is not None and (steps.preprocess is not None or steps.generate is not None)
        return None if is_made else self.batching.pad

    @property
    def is_on_fallback(self) -> bool:
        """Whether it answers requests with something else than what its compilation should give, or has yet to give."""
        return self.is_ready and self.optimization in ("compiling", "fallback")

    @property
    def is_decoupled(self) -> bool:
        """Whether a request may have any number of responses."""
        return self.steps is not None and self.steps.generate is not None

    @property
    def rung(self) -> str:
        """`torchscript int8 onednn`: what serves."""
        return " ".join(filter(None, (self.backend, self.precision, self.variant)))


class Catalog:
    """All entries, by name and version. `catalog.entry("digits")` is the default version, the highest one ready."""

    def __init__(self, entries: tuple[Entry, ...] = ()) -> None:
        self._versions: dict[str, dict[str, Entry]] = {}
        self._defaults: dict[str, Entry] = {}
        for entry in entries:
            self.put(entry)

    def __repr__(self) -> str:
        states = [f"{entry.name}/{entry.version} {entry.state}" for entry in self.entries()]
        return f"<Catalog {', '.join(states) or 'empty'}>"

    def put(self, entry: Entry) -> None:
        """Add or replace one version."""
        self._versions.setdefault(entry.name, {})[entry.version] = entry
        ordered = self.versions(entry.name)
        self._defaults[entry.name] = max(reversed(ordered), key=lambda found: (found.is_ready, found.is_resuming))

    def drop(self, name: str, version: str) -> None:
        """Forget a version."""
        versions = self._versions.get(name, {})
        versions.pop(version, None)
        if versions:
            self.put(next(iter(versions.values())))
        else:
            self._versions.pop(name, None)
            self._defaults.pop(name, None)

    def entries(self) -> tuple[Entry, ...]:
        """Every entry, by name and version number."""
        return tuple(
            versions[version]
            for _, versions in sorted(self._versions.items())
            for version in sorted(versions, key=_version_number)
        )

    def versions(self, name: str) -> tuple[Entry, ...]:
        """The versions of one model, lowest first. Raises NotFound with the nearest right name."""
        if name not in self._versions:
            raise NotFound(f"unknown model {_shown(name)}: {self._nearest(name)}")
        versions = self._versions[name]
        return tuple(versions[version] for version in sorted(versions, key=_version_number))

    def entry(self, name: str, version: str = "") -> Entry:
        """One version, by number or label; "" is the highest that is ready, else the highest. Raises NotFound."""
        versions = self._versions.get(name)
        if versions and version:
            found = versions.get(version)
            if found is not None:
                return found
            if not version.isdigit() and any(version in entry.aliases for entry in versions.values()):
                return self.aliased(name, version)
            known = ", ".join(sorted(versions, key=_version_number))
            raise NotFound(f"model '{name}' has no version {_shown(version)}: its versions are {known}")
        default = self._defaults.get(name)
        return default if default is not None else self.versions(name)[-1]

    def aliased(self, name: str, alias: str) -> Entry:
        """The version that `alias` stands for, the highest where it stands for several. Raises NotFound."""
        versions = self.versions(name)
        found = next((entry for entry in reversed(versions) if alias in entry.aliases), None)
        if found is None:
            known = ", ".join(sorted({each for entry in versions for each in entry.aliases}))
            hint = f"its labels are {known}" if known else "it has none: name a version, or leave it out"
            raise NotFound(f"model '{name}' has no label {_shown(alias)}: {hint}")
        return found

    def has(self, name: str, version: str = "") -> bool:
        """Whether there is such a model, and such a version of it."""
        return version in self._versions.get(name, ()) if version else name in self._versions

    def ready_entry(self, name: str, version: str = "") -> Entry:
        """The version to infer with, READY or resuming. Raises NotFound, or Unavailable with the reason."""
        found = self.entry(name, version)
        if found.state is not State.READY and not found.is_resuming:
            reason = found.reason or f"it is {found.state.lower()}"
            raise Unavailable(f"model '{name}' version {found.version} is not ready: {reason}")
        return found

    @property
    def is_ready(self) -> bool:
        """True when nothing is awaited and something can be served; a model that failed does not stop the others."""
        entries = self.entries()
        awaited = [entry.state for entry in entries if entry.is_awaited]
        return State.LOADING not in awaited and (not awaited or any(entry.is_ready for entry in entries))

    def _nearest(self, name: str) -> str:
        near = difflib.get_close_matches(name[:MAX_SHOWN], self._versions, n=1)
        if near:
            return f"did you mean '{near[0]}'?"
        known = ", ".join(sorted(self._versions)[:20])
        return f"the models here are {known}" if known else "the model repository is empty"


def _shown(text: str) -> str:
    """What a client named, quoted: no longer than a name may be, and without what is no letter."""
    return "'" + "".join(each if each.isprintable() else "?" for each in text[:MAX_SHOWN]) + "'"


def _version_number(version: str) -> int:
    return int(version) if version.isdigit() else 0
