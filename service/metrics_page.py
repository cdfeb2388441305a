"""Writes docs/metrics.md from the declarations: `python -m service.metrics_page > docs/metrics.md`.

Knows only what is declared and the names of the aliases. `observe/metrics.py` declares what the page describes.
"""

from __future__ import annotations

import numpy as np

from service.observe.adding import LAG_S
from service.observe.aliases import alias_families
from service.observe.buckets import CLASSIC_ROWS, CLASSIC_SECONDS
from service.observe.families import Family
from service.observe.merge import Merged
from service.observe.metrics import METRICS, Metric

INTRODUCTION = """\
# Metrics

<!-- Written by `python -m service.metrics_page > docs/metrics.md` from service/observe/metrics.py: change that. -->

```bash
curl http://127.0.0.1:8002/metrics
```

A process of its own, the sidecar, publishes them, so that a scrape disturbs nobody. Every process counts in a file in
one folder; what a process counted stays when it dies, and counters never go backwards. `GET /live` on the same port
says that the sidecar lives. Dashboards, alerts and what to do about them: [monitoring](monitoring.md).

* **Formats**, by what the scraper accepts: the Prometheus text format, OpenMetrics (with exemplars: the trace of the
  last request in each latency bucket that is traced, here or by its client: docs/tracing.md), and Prometheus' protobuf
  format with **native histograms** (schema {schema}, 9 % between two bounds) beside the classic buckets. Prometheus
  asks for the last one when native histograms are switched on in it. `Accept-Encoding: gzip` is answered.
* **Several replicas** are added up by Prometheus: no label names a process that a client could have reached, and all
  bounds are the same everywhere. Quantiles come from histograms (`histogram_quantile`), never from averages of them.
* **Labels are bounded**: `model` and `version` are those that are served. What was asked of no model is counted under
  `model=""`.
* **A container of its own** beside the service: give both a volume, start the service with `--metrics-directory
  /metrics --no-metrics-sidecar`, and in the other container of the same image

  ```bash
  python -m service.observe.sidecar --directory /metrics --host 0.0.0.0 --port 8002
  ```

  which needs to read the folder only. Both must run on one node: locks on the files tell the living from the dead.
* **GPUs** need the driver and `pip install 'torchere[nvml]'`; without, their metrics are absent.
* **When.** Requests whose like came before, and batches, are counted together, at most {lag} ms after they ended: so
  much a scrape may be behind, and so much is lost with a process that is killed; nothing is counted twice, and a
  process that leaves in order counts everything before. Statistics (`GET /v2/models/stats`) have engines count first,
  and have everything that was answered before they were asked for. How many requests wait and run is looked at as
  often. Their phase `encode` is the mean of the answers that one turn of a frontend's loop gave.
* **Cost.** `python -m benchmarks.metrics_cost` measures a server that counts every other fifth of a second, under HTTP
  and gRPC at concurrency 64 and 1. The medians of the differences between neighbouring slices, of the rate and of the
  processor time for each request, are in `benchmarks/results/metrics.json` (`counting`), beside the nanoseconds of each
  count and the milliseconds of a scrape. On two cores, counting took 0.5 of the 34 µs of processor time that a request
  takes where 64 are under way over HTTP: 1.5 % (-1 to 3), and the rate was 0.2 % lower (between 2.7 lower and 2.0
  higher). Over gRPC no difference could be seen at 64. One client alone had 2.2 % fewer answers over gRPC (-1 to 4) and
  4.0 % fewer over HTTP (1 to 7; 2.6 % in a second run): nothing is in the caches then, and counting takes 16 to 20 µs
  of the 340 to 690 that a request takes. A scrape of 100 models and five processes takes 17 to 48 ms in the median,
  by format.

Bounds of the classic buckets: seconds {seconds}; rows {rows}.

## Our own names

| Metric | Kind | Unit | Labels | What it tells |
|---|---|---|---|---|
"""

ALIASES = """
## Names of other servers

`--metrics-aliases` publishes the same counts under other names too: `triton` (the default: perf_analyzer and
model_analyzer read them), `tf_serving`, `all` or `none`. They are computed from the words above, so they cannot
disagree with them, nor with the statistics of `GET /v2/models/stats`, to which Triton's durations and counts are equal.
`nv_inference_request_failure` counts requests that were refused as invalid under `OTHER`; the statistics do not.
Left out because they would not be true: Triton's summaries (quantiles of one process, which nobody can add up) and its
pool of pinned memory, which torchere has not.

| Metric | Kind | Labels | What it tells |
|---|---|---|---|
"""


def metrics_page() -> str:
    """The page as markdown."""
    introduction = INTRODUCTION.format(
        schema=3,
        lag=round(LAG_S * 1000),
        seconds=", ".join(map(str, CLASSIC_SECONDS)),
        rows=", ".join(map(str, CLASSIC_ROWS)),
    )
    own = "".join(map(_row, (metric for metric in METRICS if metric.kind != "hidden")))
    return introduction + own + ALIASES + "".join(map(_alias_row, alias_families(example(), "all")))


def example() -> Merged:
    """Every metric under one set of labels, with nothing counted: what a service of one model could publish."""
    labelled = {"outcome": "failed", "result": "hit", "phase": "queue", "rows": "1"}
    merged: Merged = {}
    for metric in METRICS:
        options = {
            "outcome": ("success", "failed"),
            "result": ("hit", "miss"),
            "phase": ("queue", "stack", "copy_in", "compute", "copy_out", "encode", "input", "output"),
        }
        chosen = next((name for name in metric.labels if name in options), "")
        for value in options.get(chosen, ("",)):
            labels = tuple(value if name == chosen else labelled.get(name, name) for name in metric.labels)
            merged.setdefault(metric.name, {})[labels] = np.zeros(metric.size, dtype=np.uint64)
    return merged


def _row(metric: Metric) -> str:
    name = metric.name + ("_total" if metric.kind == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{name}` | {metric.kind} | {metric.unit} | {labels} | {metric.help} |\n"


def _alias_row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |\n"


if __name__ == "__main__":
    print(metrics_page(), end="")
