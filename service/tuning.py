"""The trace and logging extensions: which settings there are, what may be set, and what follows of a change.

Pure. Both act at once in every process; those of traces where tracing is on (`observe/sampling.py`), and elsewhere they
are only kept. `extensions.py` asks here before it asks the parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict, replace

from service.errors import InvalidInput
from service.nearest import nearest
from service.observe.logs import LogSettings
from service.observe.sampling import TraceSettings

TraceChanges = dict[str, tuple[str, ...] | None]

TRACE_DEFAULTS: dict[str, tuple[str, ...]] = {
    "trace_file": ("",),
    "trace_level": ("OFF",),
    "trace_rate": ("1000",),
    "trace_count": ("-1",),
    "log_frequency": ("0",),
    "trace_mode": ("triton",),
}
TRACE_LISTS = ("trace_level",)  # answered as a list even where there is one
TRACE_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")
TRACE_FIXED = {"trace_file": "a client must not choose where a server writes", "trace_mode": "it is fixed at the start"}
TRACE_LEAST = {"trace_rate": 0, "trace_count": -1, "log_frequency": 0}
MOST = 2**63 - 1
LOG_SWITCHES = ("log_info", "log_warning", "log_error")
LOG_FORMATS = ("default", "ISO8601")


def trace_settings(
    kept: TraceSettings, model: str, defaults: Mapping[str, tuple[str, ...]] = TRACE_DEFAULTS
) -> dict[str, tuple[str, ...]]:
    """The settings that hold for a model, or for all of them where it is ""; `defaults` are those of this server."""
    return {**TRACE_DEFAULTS, **defaults, **kept.get("", {}), **(kept.get(model, {}) if model else {})}


def read_trace_changes(
    given: Mapping[str, Any], defaults: Mapping[str, tuple[str, ...]] = TRACE_DEFAULTS
) -> TraceChanges:
    """What a client wants changed: text, a number, or a list of text; None, or an empty list, clears. InvalidInput."""
    standard = {**TRACE_DEFAULTS, **defaults}
    return {name: _read_trace_change(name, value, standard) for name, value in given.items()}


def _read_trace_change(name: str, value: Any, standard: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    if name not in TRACE_DEFAULTS:
        raise InvalidInput(f"unknown trace setting '{name[:80]}': {nearest(name[:80], TRACE_DEFAULTS)}")
    if value is None or value in ([], ()):
        return None
    values = tuple(str(each) for each in (value if isinstance(value, list | tuple) else [value]))
    if name in TRACE_FIXED:
        if values == standard[name]:
            return None
        raise InvalidInput(f"trace setting '{name}' cannot be changed over the network: {TRACE_FIXED[name]}")
    if name == "trace_level":
        if not set(values) <= set(TRACE_LEVELS):
            raise InvalidInput(f"trace setting '{name}' must be among {', '.join(TRACE_LEVELS)}")
    elif len(values) != 1 or not _is_whole(values[0], TRACE_LEAST[name]):
        raise InvalidInput(f"trace setting '{name}' must be one whole number, {TRACE_LEAST[name]} or more")
    return values


def _is_whole(text: str, least: int) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 20 and least <= int(text) <= MOST


def change_trace(kept: TraceSettings, model: str, changes: TraceChanges) -> TraceSettings:
    """What is kept after a change; where None clears it, the setting of all models, or the default, holds again."""
    own = {**kept.get(model, {}), **{name: value for name, value in changes.items() if value is not None}}
    own = {name: value for name, value in own.items() if name not in changes or changes[name] is not None}
    return {**kept, model: own}


def log_settings(log: LogSettings) -> dict[str, Any]:
    """The settings as the extension names them; the log goes to standard error, so `log_file` is empty."""
    return {"log_file": "", **asdict(log)}


def change_log(log: LogSettings, given: Mapping[str, Any]) -> LogSettings:
    """What holds after a change. Raises InvalidInput."""
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name in LOG_SWITCHES:
            if not isinstance(value, bool):
                raise InvalidInput(f"log setting '{name}' must be true or false")
        elif name == "log_verbose_level":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
                raise InvalidInput(f"log setting '{name}' must be a whole number, zero or more")
        elif name == "log_format":
            if value not in LOG_FORMATS:
                raise InvalidInput(f"log setting '{name}' must be one of {', '.join(LOG_FORMATS)}")
        elif name == "log_file":
            if value != "":
                raise InvalidInput(
                    "log setting 'log_file' cannot be changed over the network: the log goes to standard error"
                )
            continue
        else:
            raise InvalidInput(f"unknown log setting '{name[:80]}': {nearest(name[:80], log_settings(log))}")
        changes[name] = value
    return replace(log, **changes)
