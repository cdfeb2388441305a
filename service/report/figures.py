"""How numbers and foreign text are written, on the terminal and on the page alike.

Knows nothing of what they mean.
"""

from __future__ import annotations

import math

UNITS = ("B", "kB", "MB", "GB", "TB")  # powers of 1000, as the settings read them


def milliseconds_text(value: float) -> str:
    """Three significant digits: `0.0123`, `1.23`, `123`."""
    return _significant(value)


def bytes_text(size: float) -> str:
    """`1.5 MB`."""
    for unit in UNITS:
        if size < 1000 or unit == UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def error_text(value: float) -> str:
    """`3.1e-06`."""
    return "0" if value == 0 else f"{value:.1e}"


def percent_text(share: float) -> str:
    """`97.25 %`, without zeros at the end."""
    return f"{share * 100:.2f}".rstrip("0").rstrip(".") + " %"


def times_text(ratio: float) -> str:
    """`3.4x`."""
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x" if ratio >= 1.1 else f"{ratio:.2f}x"


def seconds_text(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count_text(value: float) -> str:
    """`12,300`: three significant digits, thousands apart."""
    return _significant(value) if value < 1000 else f"{float(f'{value:.3g}'):,.0f}"


def plural(count: int, what: str) -> str:
    """`1 artifact`, `2 artifacts`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def printable(text: str) -> str:
    """Text of a model's own making without what would steer a terminal or break a page."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)


def _significant(value: float) -> str:
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    decimals = min(max(0, 2 - math.floor(math.log10(abs(value)))), 4)
    return f"{value:.{decimals}f}"
