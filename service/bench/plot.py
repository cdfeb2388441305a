"""A picture of throughput against latency, as SVG written by hand: readable in light and dark, nothing to fetch.

Pure: numbers in, text out. Latency is on a logarithmic axis, since a server at its limit is a hundred times slower than
an idle one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from service.bench.summary import Result

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 84, 52  # margins
DRAWN = ("p50", "p90", "p99")
MAX_TICKS = 7
COLOURS = 6
LETTER, LEGEND_GAP = 7, 40  # the width of a letter of the legend is not known, but not more

STYLE = """
svg { font: 13px system-ui, sans-serif; background: var(--ground); color-scheme: light dark; }
svg { --ground: #fff; --ink: #1c1d1f; --quiet: #6a6d73; --line: #e3e3df; }
svg { --c0: #0b7a5c; --c1: #c07d12; --c2: #b3342c; --c3: #4a7fb5; --c4: #8c6bb1; --c5: #6d727b; }
@media (prefers-color-scheme: dark) {
  svg { --ground: #131416; --ink: #e8e8e6; --quiet: #9a9da3; --line: #2f3236; }
  svg { --c0: #41c79d; --c1: #e5bb5b; --c2: #f0857d; --c3: #6fa3d8; --c4: #b094d3; --c5: #99a5a6; }
}
text { fill: var(--ink); } .quiet { fill: var(--quiet); } .title { font-size: 16px; font-weight: 650; }
.grid { stroke: var(--line); } .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.label { font-size: 11px; fill: var(--quiet); }
""".strip()


@dataclass(frozen=True, slots=True)
class Point:
    """One level: requests a second, milliseconds, and what is written beside it."""

    requests_per_s: float
    latency_ms: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """The axes: rate from 0 to `high_rate`, latency from `low_ms` to `high_ms`."""

    high_rate: float
    low_ms: float
    high_ms: float

    def x(self, rate: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * rate / self.high_rate

    def y(self, latency_ms: float) -> float:
        share = math.log(latency_ms / self.low_ms) / math.log(self.high_ms / self.low_ms)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share


def series_of(results: Sequence[Result]) -> list[Series]:
    """One curve for each drawn percentile, its points labelled with their level on the lowest curve."""
    curves = []
    for index, name in enumerate(DRAWN):
        points = tuple(
            Point(result.requests_per_s, result.latency_ms[name], "" if index else _level_label(result))
            for result in results
            if name in result.latency_ms
        )
        if points:
            curves.append(Series(name, points))
    return curves


def draw(title: str, series: Sequence[Series]) -> str:
    """The whole file. A series without points is left out."""
    drawn = [each for each in series if each.points]
    frame = fit(drawn)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}: latency against throughput">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="title" x="{LEFT}" y="28">{escape(title)}</text>',
        *_axes(frame),
        *_legend([each.name for each in drawn]),
        *(part for index, each in enumerate(drawn) for part in _curve(index, each, frame)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def fit(series: Sequence[Series]) -> Frame:
    """The axes that hold every point, ending at round numbers."""
    points = [point for each in series for point in each.points]
    rates = [point.requests_per_s for point in points] or [1.0]
    latencies = [max(point.latency_ms, 1e-3) for point in points] or [1.0]
    step = round_step(max(*rates, 1e-9))
    high_rate = math.ceil(max(rates) * 1.02 / step) * step or step
    ticks = [value for value in _one_two_five(-4, 7) if value <= min(latencies) * 0.8]  # labels stand below
    above = [value for value in _one_two_five(-4, 7) if value >= max(latencies) * 1.05]
    return Frame(high_rate, ticks[-1], above[0])


def round_step(high: float) -> float:
    """The distance of ticks: 1, 2 or 5 times a power of ten, so that at most MAX_TICKS fit below `high`."""
    rough = high / MAX_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def _one_two_five(low: int, high: int) -> list[float]:
    return [factor * 10.0**power for power in range(low, high) for factor in (1, 2, 5)]


def _axes(frame: Frame) -> list[str]:
    parts = []
    step = round_step(frame.high_rate)
    for index in range(round(frame.high_rate / step) + 1):
        x = frame.x(index * step)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text class="quiet" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{index * step:,g}</text>'
        )
    for value in _one_two_five(-4, 7):
        if frame.low_ms <= value <= frame.high_ms * 1.001:
            y = frame.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>')
            parts.append(f'<text class="quiet" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="quiet" x="{middle}" y="{HEIGHT - 12}" text-anchor="middle">requests per second</text>')
    parts.append(f'<text class="quiet" x="{LEFT}" y="{TOP - 12}" text-anchor="end" dx="-8">ms</text>')
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    parts, stride = [], LEGEND_GAP + LETTER * max(map(len, names), default=0)
    for index, name in enumerate(names):
        x = LEFT + index * stride
        parts.append(f'<circle cx="{x + 5}" cy="50" r="5" style="fill:var(--c{index % COLOURS})"/>')
        parts.append(f'<text x="{x + 16}" y="54">{escape(name)}</text>')
    return parts


def _curve(index: int, series: Series, frame: Frame) -> list[str]:
    colour = f"var(--c{index % COLOURS})"
    places = [(frame.x(point.requests_per_s), frame.y(max(point.latency_ms, 1e-3))) for point in series.points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline class="curve" style="stroke:{colour}" points="{line}"/>']
    for (x, y), point in zip(places, series.points, strict=True):
        words = f"{series.name} {point.label}: {point.requests_per_s:,.0f} requests/s, {point.latency_ms:.3g} ms"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{colour}"><title>{escape(words)}</title></circle>'
        )
        if point.label:
            parts.append(
                f'<text class="label" x="{x:.1f}" y="{y + 17:.1f}" text-anchor="middle">{escape(point.label)}</text>'
            )
    return parts


def _level_label(result: Result) -> str:
    return f"{result.level.rate_per_s:g}/s" if result.level.is_open else f"×{result.level.concurrency}"
