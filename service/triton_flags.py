"""Flags of tritonserver that `torchere serve` takes too, so that a deployment made for Triton starts this in its place.

Knows only words: `translate` turns them into settings of our own, or says why it cannot. Source: the arguments of
KServe's and ModelMesh's runtimes for Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PREFIX = "triton_"
BOTH_DOORS = ("allow_http", "allow_grpc", "allow_metrics")
KINDS: dict[str, click.ParamType[Any]] = {  # of those that are not true or false
    "model_store": click.Path(path_type=Path),
    "http_address": click.STRING,
    "grpc_address": click.STRING,
    "log_verbose": click.INT,
}
WORDS = {
    "model_store": "Where Triton's flags are given: as --model-repository.",
    "http_address": "As --host.",
    "grpc_address": "As --host.",
    "log_verbose": "Above 0: as --log-level debug.",
    "allow_http": "Taken where true: HTTP is always served.",
    "allow_grpc": "Taken where true: gRPC is always served.",
    "allow_metrics": "Taken where true: metrics are always served.",
    "strict_readiness": "Taken, without effect: ready is when nothing is loading and something can be served.",
    "strict_model_config": "Taken, without effect: a model that describes itself needs no file.",
}


def triton_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags to a command, hidden from its help; each arrives as `triton_NAME`, None where it was not given."""
    for name in reversed(WORDS):
        declaration = f"--{name.replace('_', '-')}", PREFIX + name
        kind = KINDS.get(name, click.BOOL)
        command = click.option(*declaration, type=kind, default=None, hidden=True, help=WORDS[name])(command)
    return command


def translate(given: dict[str, Any]) -> dict[str, Any]:
    """`given` with Triton's flags in our words. Raises click.UsageError for one that cannot be honoured.

    >>> translate({"http_port": 8080, "triton_model_store": "/mnt/models"})
    {'http_port': 8080, 'model_repository': '/mnt/models'}
    """
    ours = {name: value for name, value in given.items() if not name.startswith(PREFIX)}
    theirs = {
        name.removeprefix(PREFIX): value
        for name, value in given.items()
        if name.startswith(PREFIX) and value is not None
    }
    for name in BOTH_DOORS:
        if theirs.get(name) is False:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag}=false: HTTP, gRPC and metrics are always served: leave {flag} out")
    hosts = {theirs[name] for name in ("http_address", "grpc_address") if name in theirs}
    if len(hosts) > 1:
        raise click.UsageError("--http-address and --grpc-address differ: both doors listen on one, --host")
    found = {"model_repository": theirs.get("model_store"), "host": next(iter(hosts), None)}
    if theirs.get("log_verbose", 0) > 0:
        found["log_level"] = "debug"
    for name, value in found.items():
        if value is not None and ours.get(name) is None:
            ours[name] = value
    return ours
