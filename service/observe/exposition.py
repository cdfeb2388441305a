"""Families as text: the Prometheus format, and OpenMetrics, which has exemplars and units.

Pure. `choose_format` reads what a scraper accepts; `protobuf.py` writes the third format.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

from service.observe.families import Family, Histogram
from service.observe.merge import Exemplar, Labels
from service.observe.protobuf import PROTOBUF_TYPE, to_protobuf

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CACHED = 65536  # lines of as many series: a thousand models
ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def choose_format(accept: str) -> str:
    """The content type for what a scraper accepts: its first choice of those we write, else the plain text."""
    best, chosen = 0.0, TEXT_TYPE
    for part in accept.split(","):
        words = [word.strip().lower() for word in part.split(";")]
        quality = next((word[2:] for word in words if word.startswith("q=")), "1")
        offered = _offered(words)
        weight = float(quality) if quality.replace(".", "", 1).isdigit() else 0.0
        if offered and weight > best:
            best, chosen = weight, offered
    return chosen


def _offered(words: list[str]) -> str:
    match words[0]:
        case "application/vnd.google.protobuf" if "encoding=delimited" in words:
            return PROTOBUF_TYPE
        case "application/openmetrics-text":
            return OPENMETRICS_TYPE
        case "text/plain":
            return TEXT_TYPE
    return ""


def expose(families: Iterable[Family], content_type: str) -> bytes:
    """The body of that content type."""
    if content_type == PROTOBUF_TYPE:
        return to_protobuf(families)
    write = _openmetrics if content_type == OPENMETRICS_TYPE else _text
    return "".join(line for family in families for line in write(family)).encode() + (
        b"# EOF\n" if content_type == OPENMETRICS_TYPE else b""
    )


def _text(family: Family) -> Iterator[str]:
    suffix = "_total" if family.kind == "counter" and not family.is_bare else ""
    name = family.name + suffix
    yield f"# HELP {name} {_help(family)}\n# TYPE {name} {family.kind}\n"
    yield from _samples(family, name, lambda found: "")


def _openmetrics(family: Family) -> Iterator[str]:
    # A counter must end in _total there; where other servers' names do not, its kind is not told.
    kind = "unknown" if family.kind == "counter" and family.is_bare else family.kind
    yield f"# HELP {family.name} {_help(family)}\n# TYPE {family.name} {kind}\n"
    if family.unit and family.name.endswith("_" + family.unit):
        yield f"# UNIT {family.name} {family.unit}\n"
    yield from _samples(family, family.name + ("_total" if kind == "counter" else ""), _example)


def _samples(family: Family, name: str, example: Callable[[Exemplar | None], str]) -> Iterator[str]:
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            counts: list[int | str] = list(value.cumulated)
            if value.exemplars:
                counts = [
                    word
                    for number, count in enumerate(value.cumulated)
                    for word in (count, example(value.exemplars.get(number)))
                ]
            lines = _lines(name, family.labels, labels, family.bounds, bool(value.exemplars))
            yield lines % (*counts, value.cumulated[-1], value.sum)
        else:
            pairs = _pairs(family.labels, labels)
            yield f"{name}{{{pairs}}} {value!r}\n" if pairs else f"{name} {value!r}\n"


@functools.lru_cache(maxsize=CACHED)
def _lines(name: str, names: Labels, values: Labels, bounds: tuple[float, ...], has_examples: bool) -> str:
    """A histogram's lines with the numbers left open: most scrapes differ in them alone."""
    pairs = _pairs(names, values).replace("%", "%%")
    end = "%d%s\n" if has_examples else "%d\n"
    comma, braces = "," if pairs else "", f"{{{pairs}}}" if pairs else ""
    buckets = [f'{name}_bucket{{{pairs}{comma}le="{bound}"}} {end}' for bound in (*map(repr, bounds), "+Inf")]
    return "".join([*buckets, f"{name}_count{braces} %d\n{name}_sum{braces} %r\n"])


def _example(found: Exemplar | None) -> str:
    if found is None:
        return ""
    return f' # {{trace_id="{found.trace_id}"}} {found.value!r} {found.seconds!r}'


@functools.lru_cache(maxsize=CACHED)
def _pairs(names: Labels, values: Labels) -> str:
    return ",".join([f'{name}="{value.translate(ESCAPES)}"' for name, value in zip(names, values, strict=True)])


def _help(family: Family) -> str:
    return family.help.replace("\\", "\\\\").replace("\n", "\\n")
