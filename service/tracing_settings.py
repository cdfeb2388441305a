"""Tracing, the log of accesses and that of slow requests: each a setting.

Knows nothing of how: `tracing.py` makes what does it. `settings.py` has the fields.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Annotated

from pydantic import AfterValidator, Field

from service.observe.sampling import sampling_of

PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")
MISSING = "tracing needs the packages of OpenTelemetry: pip install 'torchere[otel]', or leave tracing off"


def _check_endpoint(endpoint: str | None) -> str | None:
    if endpoint is not None and not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"must be a URL, as http://localhost:4317, not '{endpoint}'")
    return endpoint


Tracing = Annotated[
    bool,
    Field(description="Send traces by OTLP over gRPC, as docs/tracing.md says. Needs the extra torchere[otel]."),
]
TraceEndpoint = Annotated[
    str | None,
    AfterValidator(_check_endpoint),
    Field(
        description="Where traces go. None: where OTEL_EXPORTER_OTLP_ENDPOINT says, else http://localhost:4317. "
        "The other OTEL_* variables hold too."
    ),
]
TraceRatio = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="Share of the requests that are traced, of those that belong to no trace yet. None: as "
        "OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say, else 0.01.",
    ),
]
SlowRequest = Annotated[
    float,
    Field(
        ge=0,
        allow_inf_nan=False,
        description="Log requests that take as many milliseconds, with where the time went. 0: none.",
    ),
]
AccessLog = Annotated[bool, Field(description="Log a line for every request over HTTP and gRPC.")]


def check_tracing(is_on: bool, ratio: float | None) -> None:
    """Raises ValueError where tracing cannot work."""
    if not is_on:
        return
    sampling_of(ratio, os.environ)
    try:
        found = all(importlib.util.find_spec(name) for name in PACKAGES)
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ValueError(MISSING)
