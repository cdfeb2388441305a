"""The kinds of panels that the dashboards are made of, as Grafana 11 takes them.

Knows no metric: `overview.py`, `model.py`, `compiler.py` and `gpu.py` do. `dashboard.py` lays panels out.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field, replace
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "text"
OUTCOMES = {
    "success": GREEN, "invalid": BLUE, "cancelled": "purple", "rejected": YELLOW, "timeout": ORANGE, "failed": RED,
}  # fmt: skip
Json = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """An expression, and what its series are called."""

    expr: str
    legend: str = ""
    has_exemplars: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel, `width` columns of 24 and `height` rows of some 30 pixels large."""

    kind: str
    title: str
    description: str
    queries: tuple[Query, ...]
    field: Json
    options: Json
    overrides: tuple[Json, ...] = ()
    transformations: tuple[Json, ...] = ()
    width: int = 8
    height: int = 8
    form: str = "time_series"
    is_instant: bool = False

    def sized(self, width: int, height: int) -> Panel:
        return replace(self, width=width, height=height)

    def stacked(self) -> Panel:
        """What adds up, on top of each other."""
        custom = self.field["custom"] | {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
        return replace(self, field=self.field | {"custom": custom})

    def bounded(self, low: float, high: float) -> Panel:
        """An axis that always shows these two."""
        return replace(self, field=self.field | {"min": low, "max": high})

    def limited(self, *steps: tuple[float, str], base: str = GREEN) -> Panel:
        """Colours from these values on; lines show them as lines."""
        limits: Json = {"thresholds": thresholds(*steps, base=base)}
        if self.kind == "timeseries":
            limits["custom"] = self.field["custom"] | {"thresholdsStyle": {"mode": "dashed"}}
        return replace(self, field=self.field | limits)

    def coloured(self, colours: dict[str, str]) -> Panel:
        """A fixed colour for each of these series."""
        found = tuple(override(name, color={"mode": "fixed", "fixedColor": colour}) for name, colour in colours.items())
        return replace(self, overrides=self.overrides + found)

    def named(self, values: dict[int, tuple[str, str]]) -> Panel:
        """Words and colours for values."""
        options = {str(value): {"text": text, "color": colour} for value, (text, colour) in values.items()}
        return replace(self, field=self.field | {"mappings": [{"type": "value", "options": options}]})

    def absent(self, text: str) -> Panel:
        """What it says where there is nothing to show."""
        return replace(self, field=self.field | {"noValue": text})

    def linked(self, title: str, url: str) -> Panel:
        """Where a click on a value leads."""
        return replace(self, field=self.field | {"links": [{"title": title, "url": url}]})

    def to_json(self, number: int, x: int, y: int) -> Json:
        made: Json = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": [self._target(index, query) for index, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": self.field, "overrides": list(self.overrides)},
            "options": self.options,
        }
        if self.transformations:
            made["transformations"] = list(self.transformations)
        return made

    def _target(self, index: int, query: Query) -> Json:
        made: Json = {
            "refId": string.ascii_uppercase[index],
            "datasource": SOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "format": self.form,
            "instant": self.is_instant,
            "range": not self.is_instant,
        }
        return made | ({"exemplar": True} if query.has_exemplars else {})


def thresholds(*steps: tuple[float, str], base: str = GREEN) -> Json:
    found: list[Json] = [{"color": base, "value": None}]
    return {"mode": "absolute", "steps": found + [{"color": colour, "value": value} for value, colour in steps]}


def override(name: str, **properties: Any) -> Json:
    """What is different for the series, or column, of this name."""
    return {
        "matcher": {"id": "byName", "options": name},
        "properties": [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()],
    }


def lines(title: str, description: str, unit: str, *queries: Query) -> Panel:
    """Values over time."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 10,
        "showPoints": "never",
        "spanNulls": False,
        "axisPlacement": "auto",
        "stacking": {"mode": "none", "group": "A"},
    }
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": ["lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults = {"unit": unit, "min": 0, "color": {"mode": "palette-classic"}, "custom": custom}
    return Panel("timeseries", title, description, queries, defaults, options)


def stat(title: str, description: str, unit: str, query: Query) -> Panel:
    """One number now, with its course behind it."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "textMode": "auto",
        "orientation": "auto",
    }
    defaults = {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": thresholds()}
    return Panel("stat", title, description, (query,), defaults, options, width=4, height=4)


def bars(title: str, description: str, unit: str, *queries: Query) -> Panel:
    """One bar for each series, as it is now."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "displayMode": "gradient",
        "orientation": "horizontal",
        "showUnfilled": True,
        "valueMode": "color",
        "namePlacement": "auto",
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 300,
    }
    defaults = {"unit": unit, "min": 0, "color": {"mode": "thresholds"}, "thresholds": thresholds(base=BLUE)}
    return Panel("bargauge", title, description, queries, defaults, options, is_instant=True)


def heat(title: str, description: str, unit: str, expr: str) -> Panel:
    """How often which value occurred, over time, from a histogram's buckets."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "cellValues": {"unit": "short", "decimals": 0},
        "color": {
            "mode": "scheme", "scheme": "Turbo", "fill": "dark-orange", "scale": "exponential", "exponent": 0.5,
            "steps": 64, "reverse": False,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }  # fmt: skip
    defaults = {"custom": {"scaleDistribution": {"type": "linear"}, "hideFrom": dict.fromkeys(HIDDEN, False)}}
    return Panel("heatmap", title, description, (Query(expr, "{{le}}"),), defaults, options, form="heatmap")


HIDDEN = ("legend", "tooltip", "viz")


def states(title: str, description: str, query: Query) -> Panel:
    """What state each thing was in, over time; `named` says what the values mean."""
    options = {
        "showValue": "never",
        "mergeValues": True,
        "rowHeight": 0.8,
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    defaults = {
        "color": {"mode": "thresholds"},
        "thresholds": thresholds(),
        "custom": {"fillOpacity": 80, "lineWidth": 0},
    }
    return Panel("state-timeline", title, description, (query,), defaults, options, width=24)


@dataclass(frozen=True)
class Column:
    """A column of a table: the label, or the query's letter, that it shows, its heading, and how."""

    source: str
    heading: str
    unit: str = ""
    properties: Json = field(default_factory=dict)


def table(title: str, description: str, columns: tuple[Column, ...], *queries: Query) -> Panel:
    """One line for each set of labels that the queries share. Their labels must be columns, for all are shown."""
    sources = [f"Value #{each.source}" if len(each.source) == 1 else each.source for each in columns]
    if len(queries) == 1:
        sources = ["Value" if source == "Value #A" else source for source in sources]
    organize = {
        "excludeByName": {name: True for name in ("Time", "Value") if name not in sources},
        "indexByName": {source: index for index, source in enumerate(sources)},
        "renameByName": {source: each.heading for source, each in zip(sources, columns, strict=True)},
    }
    overrides = tuple(
        override(each.heading, **({"unit": each.unit} if each.unit else {}), **each.properties)
        for each in columns
        if each.unit or each.properties
    )
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False},
    }
    defaults = {"custom": {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True}}
    found = Panel("table", title, description, queries, defaults, options, overrides, form="table", is_instant=True)
    steps = ({"id": "merge", "options": {}}, {"id": "organize", "options": organize})
    return replace(found, transformations=steps, width=24)
