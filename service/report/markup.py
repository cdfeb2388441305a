"""Builds HTML that cannot be broken by what it shows: whatever is not markup already is escaped.

    tag("p", "served by ", tag("b", name), cls="lead")

The result is well-formed XML too, so that a test, or another program, can read it with any parser.
"""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

from service.report.figures import printable

VOID = frozenset({"meta", "br", "hr"})


class Html(str):
    """Text that is markup already; only this file makes it."""

    __slots__ = ()


def tag(element: str, /, *children: str, **attributes: str) -> Html:
    """One element. `cls` is the class; children that are not Html are text."""
    named = {("class" if key == "cls" else key.replace("_", "-")): value for key, value in attributes.items() if value}
    opening = "".join(f" {key}={quoteattr(printable(value))}" for key, value in named.items())
    if element in VOID:
        return Html(f"<{element}{opening}/>")
    return Html(f"<{element}{opening}>{join(*children)}</{element}>")


def join(*children: str) -> Html:
    """Elements and text, one after the other."""
    return Html("".join(child if isinstance(child, Html) else escape(printable(child)) for child in children))


def style_sheet(css: str) -> Html:
    """Our own CSS, which is not text to be escaped."""
    assert not {"<", "&"} & set(css), "a style sheet of XML has neither"
    return Html(f"<style>{css}</style>")
