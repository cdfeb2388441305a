"""All configuration of the service, read once: flags, then TORCHERE_* variables, then a YAML file, then defaults.

Knows nothing of models' own configuration (`repository/config.py`). The sentence under each field is its help text and
its row in docs/configuration.md, which `settings_page.py` writes.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service import access, tracing_settings
from service.busy_poll_settings import BusyPoll
from service.cores import available_cores
from service.failure_settings import BatchTimeout, DrainDelay, DrainTimeout, RerunTimeout, StallTimeout
from service.frontends import count_frontends
from service.limits import Chunks, Elements, HeaderBytes, JsonDepth, Limits, Tensors
from service.metrics_settings import MetricsAliases, MetricsDirectory, MetricsSidecar
from service.modes import ControlMode, LoadModel, PollInterval, SharedMemory, TrustUploads
from service.nearest import nearest
from service.validation import find_faults

PREFIX = "TORCHERE_"
CONFIG_VARIABLE = "TORCHERE_CONFIG"
DEFAULT_FILE = Path("torchere.yaml")
MISSPELT = 0.85  # Kubernetes sets TORCHERE_PORT_8000_TCP and the like: only what is nearly a setting is refused
MEGABYTE = 10**6
GIGABYTE = 10**9
UNITS = {"": 1, "K": 10**3, "M": MEGABYTE, "G": GIGABYTE, "T": 10**12}  # as disks are sold
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]?)B?", re.IGNORECASE)


class SettingsError(Exception):
    """A setting that cannot be used; the message names the flag, the variable, or the file and line."""


def default_cache_dir() -> Path:
    """Where artifacts lie unless asked otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "torchere"


def _check_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda:[0-9]+", device):
        raise ValueError(f"must be auto, cpu, or cuda:0, cuda:1, ..., not '{device}'")
    return device


def _read_size(size: Any) -> Any:
    """`20G`, `512 MB` or a number of bytes."""
    if not isinstance(size, str):
        return size
    found = SIZE.fullmatch(size.strip())
    if found is None:
        raise ValueError(f"must be bytes, or a number with K, M, G or T, as 20G, not '{size}'")
    return int(float(found[1]) * UNITS[found[2].upper()])


Folder = typing.Annotated[Path, AfterValidator(Path.expanduser)]
Device = typing.Annotated[str, AfterValidator(_check_device)]
Size = typing.Annotated[int, BeforeValidator(_read_size)]


class Settings(BaseModel):
    """Frozen: a function is given the few values it needs, or all of them to pass on."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    model_repository: Folder = Field(Path("models"), description="Folder with one folder for each model.")
    models: tuple[str, ...] = Field((), description="Serve only these models of the repository; none given: all.")
    cache_dir: Folder = Field(
        default_factory=default_cache_dir,
        description="Folder of compiled models. Keep it on a disk that outlives the process: a first start compiles.",
    )
    cache_max_size: Size = Field(
        20 * GIGABYTE,  # a ResNet-50 with its engines takes 200 MB: a hundred of them fit, on the usual 30 GB disk too
        ge=0,
        description="Largest size of the cache, as 500M or 20G; artifacts used longest ago go first. 0: no limit.",
    )
    trust: bool = Field(
        False,
        description="Trust every model of the repository: open formats that can run code as they are loaded.",
    )
    startup: Literal["wait", "fallback"] = Field(
        "fallback",
        description="Until a model is compiled: fallback serves it as it is, wait leaves it unavailable.",
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on; 0.0.0.0 lets other machines in: see docs/security.md.",
    )
    http_port: int = Field(8000, ge=0, le=65535, description="Port of the HTTP API; 0: a free one.")
    grpc_port: int = Field(8001, ge=0, le=65535, description="Port of the gRPC API; 0: a free one.")
    metrics_port: int = Field(8002, ge=0, le=65535, description="Port of the Prometheus metrics; 0: a free one.")
    metrics_directory: MetricsDirectory = None
    metrics_sidecar: MetricsSidecar = True
    metrics_aliases: MetricsAliases = "triton"
    device: Device = Field(
        "auto",
        description="Where models run: cpu, cuda:0, cuda:1, ...; auto: every GPU, or the CPU where there is none.",
    )
    frontends: int = Field(
        0, ge=0, le=256, description="Processes that speak HTTP and gRPC; 0: by cores: 1 on two, 2 on four, 4 on eight."
    )
    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads that compute one batch on the CPU; 0: one for every core. Small models run on one.",
    )
    busy_poll_us: BusyPoll = "auto"
    compile_jobs: int = Field(
        1,
        ge=1,
        le=64,
        description="Models compiled at the same time; they are timed too, so more makes choices less sure.",
    )
    compile_timeout_s: float = Field(
        900.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that compiling one model may take, unless its model.yaml says.",
    )
    max_body_bytes: int = Field(
        Limits().body_bytes,
        ge=1024,
        le=2**31 - 1,  # the most that gRPC can carry
        description="Largest request, in bytes, after decompression. Each request in flight may hold as much memory.",
    )
    max_header_bytes: HeaderBytes = Limits().header_bytes
    max_chunks: Chunks = Limits().chunks
    max_json_depth: JsonDepth = Limits().json_depth
    max_tensors: Tensors = Limits().tensors
    max_json_values: Elements = Limits().elements
    model_control_mode: ControlMode = "none"
    load_model: LoadModel = ()
    poll_interval_s: PollInterval = 15.0
    trust_uploads: TrustUploads = False
    shared_memory: SharedMemory = "off"
    response_cache_max_size: Size = Field(
        64 * MEGABYTE,  # fifty thousand answers of a classifier with 100 classes
        ge=0,
        description="Largest size of the answers that each frontend keeps, of models that ask for it. 0: none.",
    )
    transport_memory: Size = Field(
        256 * MEGABYTE,  # a thousand images of 150 KB under way
        ge=0,
        description="Most memory through which a frontend passes large tensors to engines, and each engine back to it; "
        "what was never needed of it is not taken. 0: they pass through sockets.",
    )
    stall_timeout_s: StallTimeout = 60.0
    http_prefix: access.HttpPrefix = ""
    queue_full_status: access.QueueFullStatus = "unavailable"
    grpc_backlog: access.GrpcBacklog = 1000
    tls_certificate: access.Certificate = None
    tls_key: access.Key = None
    tls_client_ca: access.ClientAuthority = None
    metrics_tls: access.MetricsTls = False
    token_file: access.TokenFile = None
    restricted_api: access.RestrictedApis = ()
    restricted_status: access.RestrictedStatus = "forbidden"
    batch_timeout_s: BatchTimeout = 60.0
    rerun_timeout_s: RerunTimeout = 30.0
    drain_delay_s: DrainDelay = 0.0
    drain_timeout_s: DrainTimeout = 30.0
    log_format: Literal["human", "json"] = Field("human", description="Log lines for people or, as JSON, for machines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level to log.")
    access_log: tracing_settings.AccessLog = False
    slow_request_ms: tracing_settings.SlowRequest = 0.0
    tracing: tracing_settings.Tracing = False
    trace_endpoint: tracing_settings.TraceEndpoint = None
    trace_ratio: tracing_settings.TraceRatio = None

    @property
    def limits(self) -> Limits:
        """What one HTTP request may hold."""
        return Limits(
            self.max_body_bytes,
            self.max_header_bytes,
            self.max_chunks,
            self.max_json_depth,
            self.max_tensors,
            self.max_json_values,
        )


def load_settings(config_file: Path | None = None, **given: Any) -> Settings:
    """The settings that hold; `given` are flags, None or () where not given. Raises SettingsError with every fault.

    >>> load_settings(http_port=9000).http_port
    9000
    """
    origins: dict[str, str] = {}
    values = _read_file(config_file, origins)
    for name, text in _environment(os.environ).items():
        values[name] = text.split(",") if kind_of(name) is tuple else text
        origins[name] = f"{variable(name)}: "
    for name, value in given.items():
        if value is not None and value != ():
            values[name] = value
            origins[name] = f"{flag(name)}: "
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        faults = [origins.get(str(at[0]), "") + sentence for at, sentence in find_faults(error, Settings)]
        raise SettingsError("; ".join(faults)) from error
    _check_ports(settings)
    if settings.load_model and settings.model_control_mode != "explicit":
        raise SettingsError(f"{flag('load_model')} needs {flag('model_control_mode')} explicit: give both, or neither")
    try:
        tracing_settings.check_tracing(settings.tracing, settings.trace_ratio)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    cores = available_cores()
    found = {"frontends": settings.frontends or count_frontends(cores), "threads": settings.threads or cores}
    return settings.model_copy(update=found)


def flag(name: str) -> str:
    """`--http-port` for `http_port`."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """`TORCHERE_HTTP_PORT` for `http_port`."""
    return f"{PREFIX}{name.upper()}"


def default_text(name: str) -> str:
    """The default of a field in words, the same on every machine."""
    if name == "cache_dir":
        return "$XDG_CACHE_HOME/torchere, else ~/.cache/torchere"
    default = Settings.model_fields[name].default
    if name == "cache_max_size":
        return f"{default // GIGABYTE}G"
    if name in ("response_cache_max_size", "transport_memory"):
        return f"{default // MEGABYTE}M"
    if default in (None, "", ()):
        return "all" if name == "models" else "none"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return str(default)


def kind_of(name: str) -> Any:
    """bool, int, float, str, Path, tuple or Literal."""
    annotation = Settings.model_fields[name].annotation
    if types.NoneType in typing.get_args(annotation):
        annotation = typing.get_args(annotation)[0]
    return typing.get_origin(annotation) or annotation


def _read_file(config_file: Path | None, origins: dict[str, str]) -> dict[str, Any]:
    """The file that was named, or ./torchere.yaml where there is one; notes each value's line in `origins`."""
    from service.yaml_file import YamlFault, read_document  # only where a file is read: no frontend needs YAML

    named = config_file or (Path(os.environ[CONFIG_VARIABLE]) if os.environ.get(CONFIG_VARIABLE) else None)
    path = named or DEFAULT_FILE
    if named is None and not path.exists():
        return {}
    try:
        document = read_document(path)
    except YamlFault as fault:
        raise SettingsError(f"{path}:{fault.line}: {fault}") from fault
    except OSError as error:
        source = "--config" if config_file else f"{CONFIG_VARIABLE} names" if named else "the settings file"
        raise SettingsError(f"{source} {path}, which cannot be read: {error.strerror}") from error
    origins |= {str(at[0]): f"{path}:{line}: " for at, line in document.lines.items() if len(at) == 1}
    return dict(document.values)


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings among the variables, without empty ones. Raises SettingsError for one that is misspelt."""
    found = {}
    for key, text in environment.items():
        name = key.removeprefix(PREFIX).lower()
        if not key.startswith(PREFIX) or not text or key == CONFIG_VARIABLE:
            continue
        if name in Settings.model_fields:
            found[name] = text
        elif difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=MISSPELT):
            raise SettingsError(f"unknown variable {key}: {nearest(key, map(variable, Settings.model_fields))}")
    return found


def _check_ports(settings: Settings) -> None:
    for one, other in itertools.combinations(("http_port", "grpc_port", "metrics_port"), 2):
        if getattr(settings, one) == getattr(settings, other) != 0:
            port = getattr(settings, one)
            raise SettingsError(f"{one} and {other} are both {port}: give each its own, with {flag(other)} say")
