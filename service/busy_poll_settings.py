"""For how long processes look for work before they sleep, as a setting.

Knows nothing of how: `busy_poll.py` decides. `settings.py` has the field.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from service.busy_poll import AUTO

MOST_US = 1_000_000  # who waits for longer can be woken


def _read(given: Any) -> Any:
    """A number in a file is one in words."""
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


def _check(given: str) -> str:
    if given != AUTO and not (given.isdecimal() and int(given) <= MOST_US):
        raise ValueError(f"must be auto, or microseconds from 0 to {MOST_US}, not '{given}'")
    return given


BusyPoll = Annotated[
    str,
    BeforeValidator(_read),
    AfterValidator(_check),
    Field(
        description="Microseconds that frontends and engines look for the next request or answer before they sleep: a "
        "client that is alone gets its answer sooner, for a core kept busy in each. 0: none; auto: 2000 beside a GPU "
        "where there are 8 cores and more than two for each frontend and engine, else 0."
    ),
]
