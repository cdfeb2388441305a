"""Draws a hybrid map: engines and the parts that stayed in PyTorch, in order, with what crosses each border.

Knows nothing of the rest of the page. `page.py` puts the parts together.
"""

from __future__ import annotations

from compiler.manifest import Candidate, HybridMap, Manifest, Remainder, Segment
from service.report.figures import bytes_text, percent_text, plural
from service.report.markup import Html, join, tag

OPERATORS_SHOWN = 4  # in a block of the drawing; the list below has all
LAYERS_SHOWN = 12


def draw_hybrids(manifest: Manifest) -> Html:
    """The map of the rung that is served, then those of the others that have one."""
    rungs = sorted((rung for rung in manifest.ladder if rung.hybrid), key=lambda rung: rung.outcome != "chosen")
    if not rungs:
        return Html("")
    first, *others = [_draw(rung) for rung in rungs]
    rest = (
        [tag("details", tag("summary", f"The hybrid map of {plural(len(others), 'other rung')}"), *others)]
        if others
        else []
    )
    return tag("section", tag("h2", "Hybrid map"), first, *rest)


def _draw(rung: Candidate) -> Html:
    hybrid = rung.hybrid
    assert hybrid is not None, "only such rungs are drawn"
    return tag(
        "div",
        tag("p", tag("b", rung.rung.name), f": {_count(hybrid)}"),
        tag(
            "div",
            _coverage("operators in engines", hybrid.operator_coverage),
            _coverage("parameters in engines", hybrid.parameter_coverage),
            cls="coverages",
        ),
        tag("div", *(_strip(segment) for segment in hybrid.segments), cls="stages strip"),
        tag("div", *_blocks(hybrid), cls="map"),
        _list_segments(hybrid),
        _list_remainders(hybrid.remainders),
        cls="hybrid",
    )


def _count(hybrid: HybridMap) -> str:
    parts = len(hybrid.segments) - hybrid.engines
    return f"{plural(hybrid.engines, 'TensorRT engine')} and {plural(parts, 'part')} that stayed in PyTorch"


def _coverage(label: str, share: float) -> Html:
    return tag(
        "div",
        tag("span", label, cls="name"),
        tag("span", percent_text(share), cls="value"),
        tag("span", tag("i", style=f"width:{100 * share:.1f}%"), cls="track"),
        cls="bar chosen coverage",
    )


def _strip(segment: Segment) -> Html:
    """A piece exactly as wide as the segment's share of the operators; the blocks below have room for words."""
    count = sum(segment.operators.values())
    return tag("i", cls=f"stage {segment.kind}", style=f"flex-grow:{count}", title=f"{segment.name}: {count} operators")


def _blocks(hybrid: HybridMap) -> list[Html]:
    """Blocks wider for more operators, with the bytes that cross each border between them."""
    blocks = [_border(hybrid.segments[0].bytes_in)] if hybrid.segments else []
    for segment in hybrid.segments:
        blocks += [_block(segment), _border(segment.bytes_out)]
    return blocks


def _border(size: int) -> Html:
    return tag("span", tag("small", bytes_text(size)), cls="border")


def _block(segment: Segment) -> Html:
    count = sum(segment.operators.values())
    shown = [tag("li", f"{name} ", tag("b", f"{many}")) for name, many in _ordered(segment)[:OPERATORS_SHOWN]]
    rest = len(segment.operators) - OPERATORS_SHOWN
    return tag(
        "div",
        tag("span", "TensorRT" if segment.kind == "tensorrt" else "PyTorch", cls="label"),
        tag("b", plural(count, "operator")),
        tag("ul", *shown, *([tag("li", f"{rest} more kinds")] if rest > 0 else [])),
        cls=f"block {segment.kind}",
        style=f"flex-grow:{max(count, 1)}",
        title=segment.name,
    )


def _ordered(segment: Segment) -> list[tuple[str, int]]:
    return sorted(segment.operators.items(), key=lambda item: (-item[1], item[0]))


def _list_segments(hybrid: HybridMap) -> Html:
    """All operators of every segment, for those who look for one."""
    heads = tag("tr", *(tag("th", name) for name in ("", "segment", "operators", "from the layers", "engine")))
    rows = []
    for segment in hybrid.segments:
        operators = [tag("span", f"{name} ", tag("b", str(count)), cls="chip") for name, count in _ordered(segment)]
        layers = ", ".join(segment.layers[:LAYERS_SHOWN])
        more = len(segment.layers) - LAYERS_SHOWN
        rows.append(
            tag(
                "tr",
                tag("td", tag("span", "", cls=f"dot {segment.kind}")),
                tag("td", segment.name),
                tag("td", join(*operators)),
                tag("td", f"{layers} and {more} more" if more > 0 else layers),
                tag("td", bytes_text(segment.engine_bytes) if segment.engine_bytes else "", cls="number"),
            )
        )
    table = tag("table", tag("thead", heads), tag("tbody", *rows))
    return tag("details", tag("summary", "Every operator of every segment"), tag("div", table, cls="scroll"))


def _list_remainders(remainders: tuple[Remainder, ...]) -> Html:
    if not remainders:
        return Html("")
    rows = [
        tag(
            "tr",
            tag("td", tag("code", each.operator)),
            tag("td", str(each.count), cls="number"),
            tag("td", each.reason),
        )
        for each in remainders
    ]
    heads = tag("tr", tag("th", "operator"), tag("th", "times", cls="number"), tag("th", "why it stayed in PyTorch"))
    return tag("div", tag("table", tag("thead", heads), tag("tbody", *rows)), cls="scroll")
