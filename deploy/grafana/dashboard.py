"""A dashboard: its variables, its sections of panels, laid out from left to right and top to bottom.

Knows no metric. The variables work on Kubernetes and on one machine: All matches what has no such label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deploy.grafana.expressions import PLACE, SERVICE
from deploy.grafana.panels import SOURCE, Json, Panel

COLUMNS = 24
SCHEMA = 41  # of Grafana 11.6
TAG = "torchere"


@dataclass(frozen=True)
class Section:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One file, `NAME.json`."""

    name: str
    title: str
    description: str
    variables: tuple[Json, ...]
    sections: tuple[Section, ...]

    @property
    def uid(self) -> str:
        return f"torchere-{self.name}"

    def to_json(self) -> Json:
        return {
            "uid": self.uid,
            "title": f"torchere / {self.title}",
            "description": self.description,
            "tags": [TAG],
            "schemaVersion": SCHEMA,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "timezone": "browser",
            "links": [_LINK],
            "annotations": {"list": [_BUILT_IN, _SWAPS]},
            "templating": {"list": list(self.variables)},
            "panels": list(self._panels()),
        }

    def _panels(self) -> Iterator[Json]:
        number, y = 0, 0
        for section in self.sections:
            number += 1
            yield {
                "id": number,
                "type": "row",
                "title": section.title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": y},
                "panels": [],
            }
            x, y, tallest = 0, y + 1, 0
            for panel in section.panels:
                if x + panel.width > COLUMNS:
                    x, y, tallest = 0, y + tallest, 0
                number += 1
                yield panel.to_json(number, x, y)
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest


_LINK: Json = {
    "type": "dashboards",
    "title": "torchere",
    "tags": [TAG],
    "asDropdown": False,
    "icon": "dashboard",
    "includeVars": True,
    "keepTime": True,
    "targetBlank": False,
    "tooltip": "",
    "url": "",
}
_BUILT_IN: Json = {
    "name": "Annotations & Alerts",
    "type": "dashboard",
    "builtIn": 1,
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "hide": True,
    "iconColor": "rgba(0, 211, 255, 1)",
}
_SWAPPED = f"torchere_swaps_total{{{SERVICE}}}"
_SWAPS: Json = {
    "name": "Swaps",
    "datasource": SOURCE,
    "enable": True,
    "hide": False,
    "iconColor": "blue",
    "expr": f"({_SWAPPED} unless {_SWAPPED} offset 1m) or ({_SWAPPED} - {_SWAPPED} offset 1m > 0)",
    "step": "60s",
    "titleFormat": "{{model}} {{version}}",
    "textFormat": "{{to_backend}} serves in place of {{from_backend}}",
}


def source() -> Json:
    """Which Prometheus."""
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
    }


def values(label: str, metric: str, selector: str, title: str, is_single: bool = False) -> Json:
    """One of, or several of, the values that a label has."""
    query = f"label_values({metric}{{{selector}}}, {label})" if selector else f"label_values({metric}, {label})"
    found: dict[str, Any] = {
        "name": label,
        "label": title,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": f"variable-{label}"},
        "current": {} if is_single else {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "includeAll": not is_single,
        "multi": not is_single,
        "options": [],
        "refresh": 2,
        "regex": "",
        "sort": 7,
    }
    return found if is_single else found | {"allValue": ".*"}


def places() -> tuple[Json, ...]:
    """Where the service runs; an instance is a pod, or an address where there are no pods."""
    return (
        source(),
        values("namespace", "torchere_build_info", "", "Namespace"),
        values("instance", "torchere_build_info", PLACE, "Instance"),
    )
