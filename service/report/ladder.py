"""Draws the ladder: a panel of bars for each batch size, every rung with its outcome, errors against tolerances.

Knows nothing of the rest of the page. `facts.py` has the answers, `page.py` puts the parts together.
"""

from __future__ import annotations

import math

from compiler.manifest import Candidate, Manifest
from compiler.spec import Tolerance
from service.report.facts import batch_text, find_tolerance, timed_batches, worst_error
from service.report.figures import bytes_text, error_text, milliseconds_text, percent_text, seconds_text
from service.report.markup import Html, join, tag

LOWEST_ERROR = 1e-8  # the left end of the scale of errors; float32 rounds at 6e-8
HIGHEST_ERROR = 1.0


def draw_ladder(manifest: Manifest) -> Html:
    """One panel of bars for each batch size, all rungs that were timed in it."""
    panels = [_panel(manifest, batch) for batch in timed_batches(manifest)]
    if not panels:
        return Html("")
    return tag("section", tag("h2", "The race"), tag("div", *panels, cls="panels"))


def _panel(manifest: Manifest, batch: int) -> Html:
    timed = [rung for rung in manifest.ladder if batch in rung.milliseconds]
    slowest = max(rung.milliseconds[batch] for rung in timed)
    rows = [_bar(rung, batch, slowest) for rung in timed]
    return tag("figure", tag("figcaption", batch_text(batch), tag("span", "ms", cls="quiet")), *rows, cls="panel")


def _bar(rung: Candidate, batch: int, slowest: float) -> Html:
    milliseconds = rung.milliseconds[batch]
    width = 100 * milliseconds / slowest if slowest else 0
    graph = " in a CUDA graph" if batch in rung.graphs else ""
    return tag(
        "div",
        tag("span", rung.rung.name, cls="name"),
        tag("span", milliseconds_text(milliseconds), cls="value"),
        tag("span", tag("i", style=f"width:{width:.1f}%"), cls="track"),
        cls=f"bar {rung.outcome}",
        title=f"{rung.rung.name}: {milliseconds_text(milliseconds)} ms{graph}",
    )


def list_rungs(manifest: Manifest) -> Html:
    """Every rung with its outcome and reason, also those that never ran."""
    has_accuracy = manifest.reference_accuracy is not None
    names = ("error", *(["top-1"] if has_accuracy else []), "memory", "size", "build")
    head = tag("tr", tag("th", "rung"), tag("th", "outcome"), *(tag("th", name, cls="number") for name in names))
    rows = []
    for rung in manifest.ladder:
        notes = _notes(rung)
        rows.append(_rung_row(rung, names, "explained" if notes else ""))
        if notes:
            rows.append(tag("tr", tag("td", notes, colspan=str(2 + len(names))), cls="reason"))
    table = tag("table", tag("thead", head), tag("tbody", *rows), cls="rungs")
    return tag("section", tag("h2", "Every rung"), tag("div", table, cls="scroll"))


def _rung_row(rung: Candidate, names: tuple[str, ...], kind: str) -> Html:
    worst = worst_error(rung)
    cells = {
        "error": error_text(worst.relative_l2) if worst else "",
        "top-1": percent_text(rung.accuracy) if rung.accuracy is not None else "",
        "memory": bytes_text(rung.memory) if rung.memory else "",
        "size": bytes_text(rung.size) if rung.size else "",
        "build": seconds_text(rung.build_seconds) if rung.build_seconds else "",
    }
    return tag(
        "tr",
        tag("td", tag("b", rung.rung.name)),
        tag("td", tag("span", rung.outcome, cls=f"badge {rung.outcome}")),
        *(tag("td", cells[name], cls="number" if cells[name] else "number empty", data_name=name) for name in names),
        cls=f"{rung.outcome} {kind}".strip(),
    )


def _notes(rung: Candidate) -> str:
    unknown = f"not known to this version of its compiler: {', '.join(rung.ignored)}" if rung.ignored else ""
    return "; ".join(note for note in (rung.reason, unknown) if note)


def draw_errors(manifest: Manifest) -> Html:
    """How far each verified rung is from the reference, output by output, beside what it may be."""
    rows = [row for rung in manifest.ladder if rung.errors for row in _error_rows(rung, manifest)]
    if not rows:
        return Html("")
    legend = tag(
        "p",
        "Largest relative L2 difference from the float32 eager reference over every verified batch, on a logarithmic "
        "scale; the line marks what the precision may differ by.",
        cls="quiet",
    )
    return tag("section", tag("h2", "Verification"), legend, tag("div", *rows, cls="errors"))


def _error_rows(rung: Candidate, manifest: Manifest) -> list[Html]:
    tolerance = find_tolerance(manifest, rung.precision)
    rows = []
    for index, error in enumerate(rung.errors):
        is_within = error.relative_l2 <= tolerance.relative_l2 and error.max_abs <= tolerance.max_abs
        figures = f"{error_text(error.relative_l2)} of {error_text(tolerance.relative_l2)}"
        largest = f"largest element {error_text(error.max_abs)} of {error_text(tolerance.max_abs)}"
        rows.append(
            tag(
                "div",
                tag("span", rung.rung.name if index == 0 else "", cls="name"),
                tag("span", error.name, cls="output"),
                _scale(error.relative_l2, tolerance),
                tag("span", join(figures, tag("small", largest)), cls="value"),
                cls="error within" if is_within else "error beyond",
            )
        )
    return rows


def _scale(value: float, tolerance: Tolerance) -> Html:
    at, limit = _place(value), _place(tolerance.relative_l2)
    return tag(
        "span",
        tag("i", style=f"width:{at:.1f}%"),
        tag("u", style=f"left:{limit:.1f}%"),
        cls="track",
        title="logarithmic",
    )


def _place(value: float) -> float:
    """Where a difference is on the scale, in percent of its length."""
    if not math.isfinite(value):
        return 100.0
    clipped = min(max(value, LOWEST_ERROR), HIGHEST_ERROR)
    return 100 * math.log(clipped / LOWEST_ERROR) / math.log(HIGHEST_ERROR / LOWEST_ERROR)
