"""The rules of Prometheus: understood, tested alert by alert, documented, and the same on Kubernetes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.declared import LABELS, RULES, find_faults

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"
MANIFEST = ROOT / "deploy/kubernetes/components/monitoring/prometheusrule.yaml"
PROMTOOL = ROOT / "build/tools/bin/promtool"
ALERTS = [rule for rule in RULES if "alert" in rule]

judged = pytest.mark.skipif(not PROMTOOL.exists(), reason="`make tools` fetches promtool")
alerts = pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: str(rule["alert"]))


def promtool(*words: str | Path) -> None:
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@judged
def test_prometheus_takes_its_configuration_and_the_rules() -> None:
    promtool("check", "config", FOLDER / "prometheus.yaml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", FOLDER / "rules.yaml")


@judged
def test_every_alert_fires_where_it_should_and_nowhere_else() -> None:
    promtool("test", "rules", FOLDER / "tests.yaml")


@alerts
def test_both_are_tested(alert: dict[str, Any]) -> None:
    tests = yaml.safe_load((FOLDER / "tests.yaml").read_text())["tests"]
    expected = [
        bool(case["exp_alerts"])
        for test in tests
        for case in test["alert_rule_test"]
        if case["alertname"] == alert["alert"]
    ]
    assert set(expected) == {True, False}


@alerts
def test_an_alert_tells_what_is_wrong_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    url, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    page = ROOT / url.removeprefix("https://github.com/torchere/torchere/blob/main/")
    text = page.read_text()
    assert anchor == alert["alert"].lower()
    assert f"### {alert['alert']}\n\n*{alert['labels']['severity']}.*" in text
    grouped = re.findall(r"by \(([^)]*)\)", alert["expr"])
    told = set(re.findall(r"\$labels\.(\w+)", str(alert["annotations"])))
    known = set.union({"job", "namespace", "instance"}, *(set(group.split(", ")) for group in grouped))
    named = re.findall(r"\b(?:model:)?torchere_[\w:]+", alert["expr"])
    assert told <= known.union(*(LABELS[name] for name in named))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.get("alert") or rule["record"]))
def test_rules_name_what_is_declared(rule: dict[str, Any]) -> None:
    assert list(find_faults(rule["expr"])) == []


def test_autoscalers_name_what_is_declared() -> None:
    components = ROOT / "deploy/kubernetes/components"
    adapter = yaml.safe_load((components / "hpa/prometheus-adapter.yaml").read_text())["rules"]["custom"]
    scaler = yaml.safe_load((components / "keda/scaledobject.yaml").read_text())
    asked = [rule["seriesQuery"] for rule in adapter]
    asked += [
        re.sub(r"<<.LabelMatchers>>", 'pod="a"', rule["metricsQuery"]).replace("<<.GroupBy>>", "pod")
        for rule in adapter
    ]
    asked += [trigger["metadata"]["query"] for trigger in scaler["spec"]["triggers"]]
    for expr in asked:
        assert re.search(r"torchere_\w+", expr)
        assert list(find_faults(expr)) == []


def test_what_nobody_declares_is_found() -> None:
    assert list(find_faults('sum by (modell) (torchere_requests_total{outcome=~"success|lost",gpu="0"})')) == [
        "outcome is never lost",
        "torchere_requests_total has no label gpu",
        "nothing has a label modell",
    ]
    assert list(find_faults("torchere_requests + up")) == ["no metric torchere_requests"]


def test_kubernetes_gets_the_same_rules() -> None:
    manifest = yaml.safe_load(MANIFEST.read_text())
    assert (manifest["kind"], manifest["metadata"]["name"]) == ("PrometheusRule", "torchere")
    assert manifest["spec"] == yaml.safe_load((FOLDER / "rules.yaml").read_text())


def test_a_replica_is_called_by_its_pod() -> None:
    monitor = yaml.safe_load((MANIFEST.parent / "podmonitor.yaml").read_text())
    (relabeling,) = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]
    assert relabeling == {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "instance"}
