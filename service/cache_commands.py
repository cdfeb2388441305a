"""What `torchere cache` does: list, verify and prune the artifacts, in words for people.

Uses `compiler.cache`; knows nothing of models or servers.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compiler.cache import Cache
from compiler.manifest import read_manifest

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SHORT_KEY = 16  # characters: enough to tell artifacts apart, and to name one in a message
PLAIN_WIDTH = 120  # where the output is a file or a pipe, lines must not be folded at 80


def parse_size(text: str) -> int:
    """`500M` -> 500,000,000 bytes. Raises ValueError with the right form."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"'{text}' is not a size: write a number with K, M, G or T, as in 500M")
    return int(float(found[1]) * UNITS[found[2].upper()])


def size_text(size: int) -> str:
    """`1.5 GB`."""
    for unit in reversed(list(UNITS)):
        if size >= UNITS[unit] and unit:
            return f"{size / UNITS[unit]:.1f} {unit}B"
    return f"{size} B"


def show_artifacts(root: Path) -> None:
    """One line per artifact, the last used first."""
    entries = Cache(root).list()
    table = Table()
    for column in ("key", "backend", "precision", "device", "outputs", "size", "last used"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        manifest = read_manifest(entry.folder)
        table.add_row(
            entry.key[:SHORT_KEY],
            manifest.backend,
            manifest.precision,
            manifest.target.device,
            ", ".join(spec.name for spec in manifest.outputs),
            size_text(entry.size),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used)),
        )
    console = _console()
    console.print(table)
    console.print(
        f"{len(entries)} artifacts, {size_text(sum(entry.size for entry in entries))}, in {root}", soft_wrap=True
    )


def verify_artifacts(root: Path) -> bool:
    """Print a sentence for each artifact that is not as it was built; True where all are sound."""
    cache, console = Cache(root), _console()
    faults = {entry.key: cache.verify(entry.key) for entry in cache.list()}
    broken = {key: fault for key, fault in faults.items() if fault is not None}
    for key, fault in broken.items():
        console.print(f"{key[:SHORT_KEY]}: {fault}", style="red", markup=False, soft_wrap=True)
    console.print(f"{len(faults) - len(broken)} of {len(faults)} artifacts are sound")
    return not broken


def prune_artifacts(root: Path, max_bytes: int) -> None:
    """Remove what was not used for longest until the rest fits."""
    gone = Cache(root).prune(max_bytes)
    _console().print(f"removed {len(gone)} artifacts, {size_text(sum(entry.size for entry in gone))}")


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=PLAIN_WIDTH)
