"""Expressions that several dashboards need: what they select, and how rates, means and quantiles are formed.

Pure; knows the labels of service/observe/metrics.py and the dashboards' variables, no panel. On one machine nothing has
a namespace: there the variable is All, whose value matches what is not there. `panels.py` shows what they give.
"""

from __future__ import annotations

PLACE = 'namespace=~"$namespace"'
SERVICE = f'{PLACE},instance=~"$instance"'
CLIENTS = f'{SERVICE},protocol!="ensemble"'  # what an ensemble asks of its models, no client waits for
MODEL = f'{SERVICE},model="$model",version=~"$version"'
MODELS = f'{SERVICE},model=~"$model",version=~"$version"'
GPUS = f'{SERVICE},gpu=~"$gpu"'

BAD = 'outcome=~"failed|rejected|timeout"'
EXPECTED = 'outcome!~"invalid|cancelled"'  # what could be expected to succeed


def rate(counter: str, selector: str, by: str = "") -> str:
    """How much a counter grows in a second."""
    return f"sum{_by(by)} (rate({counter}{{{selector}}}[$__rate_interval]))"


def share(part: str, whole: str) -> str:
    """What part is of whole; 0 where there is a whole, but no part."""
    return f"({part} or 0 * {whole}) / {whole}"


def mean(histogram: str, selector: str, by: str = "") -> str:
    """The mean of what a histogram observed."""
    return f"{rate(f'{histogram}_sum', selector, by)} / {rate(f'{histogram}_count', selector, by)}"


def quantile(which: float, histogram: str, selector: str, by: str = "") -> str:
    """A quantile, over all replicas."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({which}, {rate(f'{histogram}_bucket', selector, labels)})"


def buckets(histogram: str, selector: str) -> str:
    """How many observations each bucket got: for heat maps."""
    return f"sum by (le) (increase({histogram}_bucket{{{selector}}}[$__rate_interval]))"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
