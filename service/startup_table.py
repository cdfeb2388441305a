"""What a person wants to see once everything is up: each model, how it runs, where it came from, and the addresses.

Knows entries and addresses only; `cli.py` prints it when the parent says that all has settled.
"""

from __future__ import annotations

import logging

from rich.console import Console
from rich.table import Table

from service.repository.catalog import Entry

log = logging.getLogger("torchere.parent")

PLAIN_WIDTH = 140  # where the output is a file or a pipe, lines must not be folded at 80


def print_startup(entries: tuple[Entry, ...], addresses: dict[str, str], log_format: str) -> None:
    """A table for people on standard error, or one log record per model for machines."""
    if log_format == "json":
        for entry in entries:
            log.info("%s", startup_line(entry), extra={"model": entry.name})
        log.info("serving: %s", ", ".join(f"{name} {address}" for name, address in addresses.items()))
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        console = Console(stderr=True, width=PLAIN_WIDTH)
    table = Table(title="torchere", title_justify="left")
    for column in ("model", "version", "backend", "precision", "source", "seconds", "state"):
        table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
    for entry in entries:
        state = describe_state(entry)
        seconds = f"{entry.seconds:.1f}" if entry.origin else ""
        precision = f"{entry.precision} {entry.variant}".strip()
        table.add_row(entry.name, entry.version, entry.backend, precision, entry.origin, seconds, state)
    console.print(table)
    metrics = addresses.get("metrics", "left to another sidecar")
    console.print(
        f"HTTP  {addresses['http']}  (pages: /docs)\ngRPC  {addresses['grpc']}\nmetrics  {metrics}",
        highlight=False,
    )


def describe_state(entry: Entry) -> str:
    """`ready`, whether something faster is to come, or why it is not ready."""
    if not entry.is_ready:
        return f"{entry.state.lower()}: {entry.reason}"
    match entry.optimization:
        case "compiling":
            return "ready; a faster artifact is being compiled"
        case "fallback":
            return f"ready, not compiled: {entry.progress}"
    return "ready"


def startup_line(entry: Entry) -> str:
    """`digits version 1: inductor fp32 on cpu, from cache in 0.4 s`, or why not."""
    if not entry.is_ready:
        return f"{entry.name} version {entry.version}: {entry.state.lower()}: {entry.reason}"
    return (
        f"{entry.name} version {entry.version}: {entry.rung} on {entry.device}, "
        f"from {entry.origin} in {entry.seconds:.1f} s: {describe_state(entry)}"
    )
