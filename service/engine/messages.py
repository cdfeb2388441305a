"""All that crosses a process border, as frozen messages: requests and answers, and the words of parent and children.

Knows nothing of sockets; `transport.py` frames these, each process matches on them.
"""

from __future__ import annotations

import msgspec

from service.observe.logs import LogSettings
from service.observe.sampling import TraceSettings
from service.repository.catalog import Entry
from service.shared_memory import CudaRegion, Region
from service.tensors import Places, SequencePoint
from service.traced import Ran


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The root: a message is its tag and its fields, in order, as msgpack."""


# Between a frontend and an engine. Tensors follow the message in its frame, in the order of the model's own inputs.


class Infer(Message, frozen=True):
    """Run one request. `sizes` are the bytes of each input; `deadline` is CLOCK_MONOTONIC in seconds.

    `contract` is that of the entry by which the request was checked. `id` is unique over all frontends; `retry`, one of
    those in `rerun.py`, says what became of the request in another engine.
    """

    id: int
    model: str
    version: str
    rows: int
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    deadline: float | None = None
    priority: int = 0
    contract: int = 0
    sequence: SequencePoint | None = None
    places: Places | None = None
    late: float | None = None  # CLOCK_MONOTONIC in seconds: from then on others go first
    mark: bytes = b""  # where the request is traced: `Result.ran` is wanted then
    retry: int = 0


class Cancel(Message, frozen=True):
    """The client left: do not run request `id` if it still waits."""

    id: int


class Took(Message, frozen=True):
    """The client has taken so many responses of request `id`: more may come."""

    id: int
    count: int


class Result(Message, frozen=True):
    """The outputs of request `id` follow. `batch` rows of requests were run padded to `bucket` rows.

    `phases` are nanoseconds: queue, stack, copy in, compute, copy out."""

    id: int
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    phases: tuple[int, int, int, int, int]
    batch: int
    bucket: int
    is_final: bool = True  # False: the model answers in several responses, and more come
    ran: Ran | None = None


class Failure(Message, frozen=True):
    """Request `id` was not answered, for the reason given; `code` is a service.errors.Code."""

    id: int
    code: str
    message: str
    retry_after_s: float | None = None  # where that is known better than for others of this code


# From the parent to its children.


class EngineAddress(msgspec.Struct, frozen=True, array_like=True):
    """Where an engine listens. `generation` grows with each restart, so that a stale address is never mistaken."""

    device: str
    path: str
    generation: int


class Shared(msgspec.Struct, frozen=True, array_like=True):
    """What clients have set for the whole service; `number` grows with each change."""

    number: int = 0
    regions: tuple[Region, ...] = ()
    trace: TraceSettings = {}
    log: LogSettings = LogSettings()
    cuda_regions: tuple[CudaRegion, ...] = ()
    has_cuda_memory: bool = False  # whether clients may register any


class Snapshot(Message, frozen=True):
    """What a frontend serves from now on, the engines it may use, and what clients have set."""

    entries: tuple[Entry, ...]
    engines: tuple[EngineAddress, ...]
    shared: Shared = Shared()
    is_leaving: bool = False  # the service will drain soon: it is ready no more, but answers


class Configure(Message, frozen=True):
    """The first word to a child: what it needs of the settings. `settings` is JSON, for frontends and the sidecar."""

    log_format: str
    log_level: str
    device: str = ""
    threads: int = 0
    socket_path: str = ""
    settings: str = ""
    runtime_directory: str = ""
    batch_timeout_s: float = 0.0
    busy_poll_us: int = 0


class Drain(Message, frozen=True):
    """Take no new work, finish what was accepted, then leave."""


class Load(Message, frozen=True):
    """Load the artifact in `folder` as this version and warm it up beside what is served already, then let it serve.

    `generation` grows with every artifact, so that a late answer about one is not mistaken for the next one's.
    """

    entry: Entry
    folder: str
    generation: int


class OpenRegion(Message, frozen=True):
    """Open this memory of the engine's GPU, by a CUDA IPC handle, and hold it; answered with RegionOpened."""

    region: CudaRegion
    handle: bytes


class CloseRegions(Message, frozen=True):
    """Let go of these once nothing under way uses them."""

    ids: tuple[int, ...]


class Unload(Message, frozen=True):
    """Let go of this version, but for what serves the contract `keep`; what waits is answered first."""

    name: str
    version: str
    keep: int = 0


# From the children to the parent.


class Started(Message, frozen=True):
    """The child is up. Ports are 0 for an engine; `path` is the socket an engine listens on."""

    pid: int
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    path: str = ""


class StartFailed(Message, frozen=True):
    """The child cannot start, and trying again will not help (a port in use, say)."""

    reason: str


class Loaded(Message, frozen=True):
    """The engine serves this version with the artifact of this generation."""

    name: str
    version: str
    generation: int
    seconds: float


class LoadFailed(Message, frozen=True):
    """The engine could not load this artifact; what it served before it serves on."""

    name: str
    version: str
    generation: int
    reason: str


class RegionOpened(Message, frozen=True):
    """The engine holds this region, or else why not."""

    id: int
    reason: str = ""


class Unloaded(Message, frozen=True):
    """The engine has let go of it."""

    name: str
    version: str


# What clients ask for through any frontend, for the whole service: from a frontend to the parent, and back.


class RegisterRegion(Message, frozen=True):
    """Make shared memory known."""

    region: Region


class RegisterCudaRegion(Message, frozen=True):
    """Make memory of a GPU known, and have it opened."""

    region: CudaRegion
    handle: bytes


class UnregisterRegions(Message, frozen=True):
    """Forget that region, or all where `name` is ""; those of one kind of memory only."""

    name: str
    is_cuda: bool = False


class ChangeTrace(Message, frozen=True):
    """Set trace settings of a model, or of all where `model` is ""; None: back to the default."""

    model: str
    changes: dict[str, tuple[str, ...] | None]


class ChangeLog(Message, frozen=True):
    """Set these log settings, which have been checked."""

    changes: dict[str, bool | int | str]


class LoadModel(Message, frozen=True):
    """Load or reload a model. `override` is JSON in the words of model.yaml; `upload` the folder of files that came."""

    name: str
    override: str = ""
    upload: str = ""


class UnloadModel(Message, frozen=True):
    """Serve this model no more; of an ensemble also the models, where they were loaded for it alone."""

    name: str
    with_members: bool = False


Change = RegisterRegion | RegisterCudaRegion | UnregisterRegions | ChangeTrace | ChangeLog | LoadModel | UnloadModel


class Ask(Message, frozen=True):
    """A client of this frontend wants something changed; answered when every frontend knows."""

    id: int
    change: Change


class Followed(Message, frozen=True):
    """This frontend goes by what was shared under this number."""

    number: int


class Answer(Message, frozen=True):
    """What was asked under `id` is done; or else why not, `code` being a service.errors.Code."""

    id: int
    code: str = ""
    message: str = ""


class SetLogging(Message, frozen=True):
    """To engines: log so from now on."""

    log: LogSettings


DataMessage = Infer | Cancel | Took | Result | Failure
ParentMessage = Configure | Snapshot | Drain | Load | Unload | OpenRegion | CloseRegions | Answer | SetLogging
ChildMessage = Started | StartFailed | Loaded | LoadFailed | Unloaded | RegionOpened | Ask | Followed
