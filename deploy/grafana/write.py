"""Writes the dashboards, and the PrometheusRule from the rules of Prometheus.

    python -m deploy.grafana.write     (make dashboards)

`made()` gives what belongs in which file; tests compare it with what is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from deploy.grafana.compiler import COMPILER
from deploy.grafana.gpu import GPU
from deploy.grafana.model import MODEL_DASHBOARD
from deploy.grafana.overview import OVERVIEW

DEPLOY = Path(__file__).parents[1]
DASHBOARDS = (OVERVIEW, MODEL_DASHBOARD, COMPILER, GPU)
RULES = DEPLOY / "prometheus/rules.yaml"
MANIFEST = DEPLOY / "kubernetes/components/monitoring/prometheusrule.yaml"
HEAD = """\
# Written by `make dashboards` from deploy/prometheus/rules.yaml: change that.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: torchere
spec:
"""


def made() -> Iterator[tuple[Path, str]]:
    """Each file, and what belongs in it."""
    for each in DASHBOARDS:
        text = json.dumps(each.to_json(), indent=1, ensure_ascii=False)
        yield DEPLOY / f"grafana/dashboards/{each.name}.json", text + "\n"
    spec = yaml.safe_dump(yaml.safe_load(RULES.read_text()), sort_keys=False, width=120)
    yield MANIFEST, HEAD + "".join(f"  {line}\n" if line else "\n" for line in spec.splitlines())


if __name__ == "__main__":
    for path, content in made():
        path.write_text(content)
