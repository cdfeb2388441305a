"""One page of HTML on one or several compiled models: everything inline, no script, nothing fetched.

Knows where each part of the page goes. `ladder.py`, `hybrid.py` and `details.py` draw the parts, `style.py` says how
they look.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from compiler.manifest import Manifest
from service import __version__
from service.report.details import describe_key, describe_machine, describe_sparsity, describe_stages
from service.report.facts import (
    batch_text,
    describe_accuracy,
    describe_gain,
    find_speedups,
    rows_per_second,
)
from service.report.figures import bytes_text, count_text, milliseconds_text, percent_text, seconds_text, times_text
from service.report.hybrid import draw_hybrids
from service.report.ladder import draw_errors, draw_ladder, list_rungs
from service.report.markup import Html, join, style_sheet, tag
from service.report.style import CSS

# Nothing may be fetched, whatever a hostile name managed to write: the browser itself refuses.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Compiled(msgspec.Struct, frozen=True):
    """One model of a page: its title ("digits 1"), what was made, and how it was come by."""

    title: str
    manifest: Manifest
    cached: bool
    seconds: float


def write_page(models: Sequence[Compiled], path: Path) -> None:
    """Write the page. Raises OSError."""
    path.write_text(render_page(models), encoding="utf-8")


def render_page(models: Sequence[Compiled]) -> str:
    """The page as text."""
    title = models[0].title if len(models) == 1 else f"{len(models)} models"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", f"{title}: compiled by torchere"),
        style_sheet(CSS),
    )
    body = tag("body", tag("main", _masthead(models), *(_draw_model(model) for model in models), _footer()))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _masthead(models: Sequence[Compiled]) -> Html:
    created = max(model.manifest.created for model in models).partition("T")[0]
    target = models[0].manifest.target
    brand = tag("span", "torchere", cls="brand")
    parts = [tag("p", brand, f" compiled on {created} for {target.name}, torch {target.torch}", cls="masthead")]
    if len(models) > 1:
        rows = [
            tag(
                "tr",
                tag("td", tag("a", model.title, href=f"#{_anchor(model)}")),
                tag("td", model.manifest.chosen.rung.name),
                tag("td", describe_gain(model.manifest)),
                tag("td", describe_accuracy(model.manifest)),
            )
            for model in models
        ]
        heads = tag("tr", *(tag("th", name) for name in ("model", "served by", "speed", "accuracy")))
        parts.append(tag("div", tag("table", tag("thead", heads), tag("tbody", *rows)), cls="scroll"))
    return tag("header", *parts)


def _draw_model(model: Compiled) -> Html:
    manifest = model.manifest
    parts = [
        _headline(model),
        _tiles(manifest),
        draw_ladder(manifest),
        list_rungs(manifest),
        draw_errors(manifest),
        draw_hybrids(manifest),
        describe_sparsity(manifest),
        describe_stages(manifest),
        describe_machine(manifest),
        describe_key(manifest),
    ]
    return tag("article", *parts, id=_anchor(model))


def _headline(model: Compiled) -> Html:
    manifest = model.manifest
    chosen = manifest.chosen
    origin = "taken from the cache" if model.cached else f"compiled in {seconds_text(model.seconds)}"
    size = bytes_text(sum(entry.size for entry in manifest.files))
    facts = [origin, size, *([f"{bytes_text(chosen.memory)} in memory"] if chosen.memory else [])]
    gain = describe_gain(manifest)
    return tag(
        "div",
        tag("h1", model.title),
        tag("p", "served by ", tag("b", chosen.rung.name), *([f": {gain}"] if gain else []), cls="lead"),
        tag("p", " · ".join(facts), cls="quiet"),
    )


def _tiles(manifest: Manifest) -> Html:
    """The figures that people look for first: one tile for each batch size, and one for accuracy."""
    gains = find_speedups(manifest)
    tiles = []
    for batch, milliseconds in sorted(manifest.milliseconds.items()):
        gain = times_text(gains[batch]) if batch in gains else "–"
        rate = f"{count_text(rows_per_second(batch, milliseconds))} rows/s"
        is_slow = gains.get(batch, 1.0) < 1.0
        tiles.append(
            _tile(batch_text(batch), gain, f"{milliseconds_text(milliseconds)} ms", rate, "slow" if is_slow else "")
        )
    if manifest.reference_accuracy is not None:
        after = manifest.chosen.accuracy
        tiles.append(
            _tile(
                f"top-1, {manifest.samples} samples",
                percent_text(after) if after is not None else "–",
                f"{percent_text(manifest.reference_accuracy)} before",
                "",
                "accuracy",
            )
        )
    caption = "Times as fast as eager PyTorch" if gains else "Milliseconds of one call"
    return tag("section", tag("p", caption, cls="caption"), tag("div", *tiles, cls="tiles")) if tiles else Html("")


def _tile(label: str, figure: str, below: str, last: str, kind: str = "") -> Html:
    lines = [tag("span", label, cls="label"), tag("span", figure, cls="figure"), tag("span", below)]
    return tag("div", *lines, *([tag("span", last, cls="quiet")] if last else []), cls=f"tile {kind}".strip())


def _anchor(model: Compiled) -> str:
    return "model-" + "".join(letter if letter.isalnum() else "-" for letter in model.title)


def _footer() -> Html:
    return tag("footer", join(f"torchere {__version__}. Every number was measured on the machine named above."))
