"""What `torchere cache` does: list, verify and prune the artifacts, in words for people.

Uses `compiler.cache`; knows nothing of models or servers.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from compiler.cache import Cache
from compiler.evict import Entry, choose_evictions, choose_unused
from compiler.manifest import read_manifest
from service.report.figures import bytes_text, plural, printable
from service.report.tables import make_console
from service.settings import SIZE, UNITS

SHORT_KEY = 16  # characters: enough to tell artifacts apart, and to name one in a message
AGE_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([smhdw])", re.IGNORECASE)


def parse_size(text: str) -> int:
    """`500M` in bytes, as the setting of the cache's size reads it. Raises ValueError with the right form."""
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"'{text}' is not a size: write a number with K, M, G or T, as in 500M")
    return int(float(found[1]) * UNITS[found[2].upper()])


def parse_age(text: str) -> float:
    """`30d` in seconds. Raises ValueError with the right form."""
    found = AGE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"'{text}' is not an age: write a number with s, m, h, d or w, as in 30d")
    return float(found[1]) * AGE_UNITS_S[found[2].lower()]


def show_artifacts(root: Path) -> None:
    """One line per artifact, the last used first, then those set aside."""
    cache, console = Cache(root), make_console()
    served, aside = cache.list(), cache.list_aside()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("key", "model", "made", "device", "outputs", "size", "last used", "state"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for entry in (*served, *aside):
        state = f"set aside: {entry.aside}" if entry.aside else "in use" if cache.is_used(entry.key) else ""
        last_used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        cells = [entry.key[:SHORT_KEY], *_describe(entry), bytes_text(entry.size), last_used, state]
        table.add_row(*(Text(printable(cell)) for cell in cells), style="red" if entry.aside else None)
    console.print(table)
    total = bytes_text(sum(entry.size for entry in (*served, *aside)))
    more = f" and {len(aside)} set aside" if aside else ""
    console.print(f"{plural(len(served), 'artifact')}{more}, {total}, in {root}", soft_wrap=True)


def verify_artifacts(root: Path) -> bool:
    """Print a sentence for each artifact that is not as it was built; True where all are sound."""
    cache, console = Cache(root), make_console()
    faults = {entry.key: cache.verify(entry.key) for entry in cache.list()}
    broken = {key: fault for key, fault in faults.items() if fault is not None}
    for key, fault in broken.items():
        console.print(f"{key[:SHORT_KEY]}: {printable(fault)}", style="red", markup=False, soft_wrap=True)
    console.print(f"{len(faults) - len(broken)} of {plural(len(faults), 'artifact')} sound")
    return not broken


def prune_artifacts(root: Path, max_bytes: int | None, older_than_s: float | None, broken: bool) -> None:
    """Remove what is too old, what is broken, and what was not used for longest until the rest fits; without any of
    these wishes, everything. What a running server uses stays."""
    cache, console = Cache(root), make_console()
    is_all = max_bytes is None and older_than_s is None and not broken
    gone: list[Entry] = []
    if broken or is_all:
        gone += cache.remove(cache.list_aside())
        gone += cache.remove(entry for entry in cache.list() if is_all or cache.verify(entry.key) is not None)
    if older_than_s is not None:
        gone += cache.remove(choose_unused((*cache.list(), *cache.list_aside()), time.time() - older_than_s))
    if max_bytes is not None:
        entries = (*cache.list(), *cache.list_aside())
        used = {entry.key for entry in entries if cache.is_used(entry.key)}
        gone += cache.remove(choose_evictions(entries, max_bytes, used))
    kept = sum(cache.is_used(entry.key) for entry in cache.list())
    in_use = f"; {kept} in use by a running server {'stays' if kept == 1 else 'stay'}" if kept else ""
    console.print(f"removed {plural(len(gone), 'artifact')}, {bytes_text(sum(entry.size for entry in gone))}{in_use}")


def _describe(entry: Entry) -> tuple[str, str, str, str]:
    """Model, what was made, device and outputs; a manifest that cannot be read leaves them open."""
    try:
        manifest = read_manifest(entry.folder)
    except (OSError, msgspec.DecodeError):
        return "?", "unreadable: `torchere cache verify` says why", "", ""
    made = " ".join(filter(None, (manifest.backend, manifest.precision, manifest.variant)))
    outputs = ", ".join(spec.name for spec in manifest.outputs)
    return manifest.origin, made + (" (fallback)" if manifest.is_fallback else ""), manifest.target.device, outputs
