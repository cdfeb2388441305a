"""What an expression of PromQL names that nobody declares: metrics, their labels, and the labels' values.

No parser: metrics are told by their prefixes, which all of ours have. Prometheus itself says whether it can be parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from compiler.manifest import Outcome
from service.errors import OUTCOMES
from service.observe.batches import PHASES
from service.observe.metrics import METRICS
from service.observe.recorders import InnerRecorder

ROOT = Path(__file__).parents[2]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
RECORDED: dict[str, str] = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count"), "hidden": ()}
LABELS = {metric.name + suffix: set(metric.labels) for metric in METRICS for suffix in SUFFIXES[metric.kind]}
LABELS |= {metric.name + "_bucket": {*metric.labels, "le"} for metric in METRICS if metric.kind == "histogram"}
LABELS |= {name: {"job", "model"} for name in RECORDED}
LABELS |= {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
OF_PROMETHEUS = {"namespace", "pod", "instance", "job"}
VALUES = {
    "outcome": {"success", "cancelled", "failed", "exported", "dropped", *OUTCOMES.values(), *Outcome.__args__},  # type: ignore[attr-defined]
    "phase": {"queue", *PHASES, "encode"},
    "protocol": {"http", "grpc", InnerRecorder.PROTOCOL},
    "process": {"engine", "builder"},
    "result": {"hit", "miss"},
    "of": {"operators", "parameters"},
    "alertstate": {"firing"},
}
METRIC = re.compile(r"\b((?:torchere|model:torchere)[\w:]*|up\b|ALERTS\b)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')


def find_faults(expr: str) -> Iterator[str]:
    """What an expression names and nobody tells, in a few words each."""
    known = set(OF_PROMETHEUS)
    bare = re.sub(r'"[^"]*"', lambda text: text[0] if "{" not in text[0] else '""', expr)
    for name, matchers in METRIC.findall(re.sub(r'="torchere[^"]*"', '="x"', bare)):
        if name not in LABELS:
            yield f"no metric {name}"
            continue
        known |= LABELS[name]
        for label, _, values in MATCHER.findall(matchers):
            if label not in LABELS[name] | OF_PROMETHEUS:
                yield f"{name} has no label {label}"
            if label in VALUES and "$" not in values:
                yield from (f"{label} is never {value}" for value in values.split("|") if value not in VALUES[label])
    for group in re.findall(r"\b(?:by|without|on) \(([^)]*)\)", expr):
        yield from (f"nothing has a label {label}" for label in group.split(", ") if label not in known)
