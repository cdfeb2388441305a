"""The declarations: names, units, the page that is written from them, and what promtool says of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from service.metrics_page import example, metrics_page
from service.observe.exposition import TEXT_TYPE, expose
from service.observe.families import families
from service.observe.metrics import METRICS

ROOT = Path(__file__).parents[3]
PROMTOOL = ROOT / "build/tools/bin/promtool"
UNITS = {"", "seconds", "bytes", "ratio", "rows", "watts", "joules", "celsius"}


def test_names_are_unique_and_follow_the_conventions() -> None:
    own = [metric for metric in METRICS if metric.kind != "hidden"]
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in own:
        assert re.fullmatch(r"torchere_[a-z_]+", metric.name)
        assert metric.help.endswith("."), metric.name
        assert metric.unit in UNITS, metric.name
        assert not metric.unit or metric.name.endswith(f"_{metric.unit}"), metric.name
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket")), metric.name
        assert all(re.fullmatch(r"[a-z_]+", label) and label != "le" for label in metric.labels), metric.name


def test_a_histogram_has_buckets_and_nothing_else_has() -> None:
    for metric in METRICS:
        assert (metric.buckets is not None) == (metric.kind == "histogram") or metric.kind == "hidden"


def test_the_page_is_current() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    assert page == metrics_page(), "run `make docs`"


@pytest.mark.skipif(not PROMTOOL.exists(), reason="`make tools` fetches promtool")
def test_promtool_has_nothing_to_say() -> None:
    body = expose(families(example()), TEXT_TYPE)
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=body, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode(), done.stdout.decode()) == (0, "", "")
