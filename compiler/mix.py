"""Decides which batch sizes keep an engine of their own beside one engine for all of them.

Pure but for `assemble`, which copies folders. An engine for one size is faster at it, and costs its memory; it stays
where it wins by as much as any other more complex way must. `pipeline.py` has the mixture judged like any candidate.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from compiler.choose import MARGIN
from compiler.manifest import Candidate
from compiler.spec import Rung

DYNAMIC, STATIC, MIXED = "dynamic", "static", "mixed"


class Mix(msgspec.Struct, frozen=True):
    """Engines of `static` at the batch sizes `kept`, the engine of `dynamic` at all others."""

    rung: Rung
    static: Rung
    dynamic: Rung
    kept: tuple[int, ...]

    @property
    def reason(self) -> str:
        return f"an engine of its own at batch {', '.join(map(str, self.kept))}, one engine for the others"


def find_mix(ladder: tuple[Candidate, ...]) -> Mix | None:
    """The mixture that could replace the chosen rung; None where one of its two kinds is best at every batch size."""
    chosen = next((rung for rung in ladder if rung.outcome == "chosen"), None)
    if chosen is None or not {DYNAMIC, STATIC} & set(chosen.variant.split()):
        return None
    pair = {kind: _sibling(ladder, chosen, kind) for kind in (DYNAMIC, STATIC)}
    static, dynamic = pair[STATIC], pair[DYNAMIC]
    if static is None or dynamic is None:
        return None
    kept = tuple(
        batch
        for batch, milliseconds in sorted(static.milliseconds.items())
        if milliseconds * MARGIN <= dynamic.milliseconds[batch]
    )
    if not kept or len(kept) == len(static.milliseconds):
        return None
    rung = Rung(chosen.backend, chosen.precision, _rename(chosen.variant, MIXED))
    return Mix(rung, static.rung, dynamic.rung, kept)


def assemble(mix: Mix, static: Path, dynamic: Path, out: Path) -> None:
    """Put the parts of a mixture into the folder `out`, as `backends/tensorrt.py` reads them."""
    shutil.copytree(dynamic, out)
    for batch in mix.kept:
        name = f"batch_{batch}"
        if not (out / name).exists():
            shutil.copytree(static / name, out / name)


def _sibling(ladder: tuple[Candidate, ...], chosen: Candidate, kind: str) -> Candidate | None:
    """The rung that differs from `chosen` in the kind of its engines alone, where it passed."""
    wanted = Rung(chosen.backend, chosen.precision, _rename(chosen.variant, kind))
    return next((rung for rung in ladder if rung.rung == wanted and rung.milliseconds), None)


def _rename(variant: str, kind: str) -> str:
    return " ".join(kind if word in (DYNAMIC, STATIC) else word for word in variant.split())
