"""The home dashboard: does it serve, well enough, and how much is left.

Knows the metrics; `panels.py` knows Grafana. The rules that it shows are in deploy/prometheus/rules.yaml.
"""

from __future__ import annotations

from deploy.grafana.compiler import ARTIFACT
from deploy.grafana.dashboard import Dashboard, Section, places
from deploy.grafana.expressions import BAD, CLIENTS, EXPECTED, PLACE, SERVICE, quantile, rate, share
from deploy.grafana.panels import (
    GREEN,
    ORANGE,
    OUTCOMES,
    RED,
    YELLOW,
    Column,
    Query,
    bars,
    lines,
    stat,
    table,
)

REQUESTS, LATENCY, QUEUE = "torchere_requests_total", "torchere_request_seconds", "torchere_phase_seconds"
KNOWN = f'{CLIENTS},model!=""'  # requests to a model that is there
TO_MODEL = "/d/torchere-model?${datasource:queryparam}&${namespace:queryparam}&${__url_time_range}&var-model="
IN_TIME_S, OBJECTIVE_IN_TIME, OBJECTIVE_SUCCESS = 0.25, 0.99, 0.999  # as in rules.yaml; a test compares them


def _ready(what: str) -> str:
    return f"torchere_model_{what}{{{SERVICE}}}"


GLANCE = (
    stat(
        "Requests",
        "Inference requests that ended in a second, however they ended.",
        "reqps",
        Query(rate(REQUESTS, CLIENTS)),
    ),
    stat(
        "Failing",
        "Share of the requests that failed, were rejected or timed out. What clients asked wrongly or gave up is left "
        "out.",
        "percentunit",
        Query(share(rate(REQUESTS, f"{KNOWN},{BAD}"), rate(REQUESTS, f"{KNOWN},{EXPECTED}"))),
    ).limited((0.001, ORANGE), (0.01, RED)),
    stat(
        "Latency, 99 %",
        "99 of 100 answers came within this time, from the request's arrival to its answer.",
        "s",
        Query(quantile(0.99, LATENCY, CLIENTS)),
    ).limited((IN_TIME_S, ORANGE), (4 * IN_TIME_S, RED)),
    stat(
        "Versions missing",
        "Model versions that should be served and are not, over all instances.",
        "none",
        Query(f"sum({_ready('wanted')} * (1 - {_ready('ready')}))"),
    ).limited((1, RED)),
    stat(
        "Uncompiled",
        "Model versions that serve, but not with the winner of the race: it is being compiled, or none was found.",
        "none",
        Query(f"sum({_ready('ready')} * (1 - {_ready('optimised')}))"),
    ).limited((1, YELLOW)),
    stat(
        "Alerts",
        "Alerts of deploy/prometheus/rules.yaml that fire, of all services that this Prometheus watches.",
        "none",
        Query('count(ALERTS{alertname=~"Torchere.+",alertstate="firing"}) or vector(0)'),
    ).limited((1, RED)),
)

TRAFFIC = (
    lines(
        "Requests by model",
        "Requests that ended in a second, however they ended.",
        "reqps",
        Query(rate(REQUESTS, KNOWN, "model"), "{{model}}"),
    )
    .stacked()
    .linked("This model", TO_MODEL + "${__field.labels.model:percentencode}"),
    lines(
        "Requests by outcome",
        "invalid: the client's fault. rejected: no room in the queue, or the service is draining. timeout: the time it "
        "had ran out. failed: the model's or the service's fault.",
        "reqps",
        Query(rate(REQUESTS, CLIENTS, "outcome"), "{{outcome}}"),
    )
    .stacked()
    .coloured(OUTCOMES),
    lines(
        "Failing by model",
        "Share of each model's requests that failed, were rejected or timed out.",
        "percentunit",
        Query(
            share(rate(REQUESTS, f"{KNOWN},{BAD}", "model"), rate(REQUESTS, f"{KNOWN},{EXPECTED}", "model")),
            "{{model}}",
        ),
    )
    .limited((0.01, RED))
    .linked("This model", TO_MODEL + "${__field.labels.model:percentencode}"),
    lines(
        "Latency",
        "From a request's arrival to its answer, of those that succeeded; points are examples with their traces.",
        "s",
        *(Query(quantile(which, LATENCY, CLIENTS), f"{which * 100:g} %", which == 0.99) for which in (0.5, 0.9, 0.99)),
    ).limited((IN_TIME_S, RED)),
    lines(
        "Latency by model, 99 %",
        "99 of 100 answers of each model came within this time.",
        "s",
        Query(quantile(0.99, LATENCY, KNOWN, "model"), "{{model}}"),
    )
    .limited((IN_TIME_S, RED))
    .linked("This model", TO_MODEL + "${__field.labels.model:percentencode}"),
    lines(
        "Rows by model",
        "Rows of requests that were answered with success; a request may hold many.",
        "rowsps",
        Query(rate("torchere_rows_total", KNOWN, "model"), "{{model}}"),
    ).stacked(),
)

BURN = "At 1 the budget of 30 days lasts 30 days; alerts fire at 14.4 over an hour and at 6 over six hours."
BUDGETS = (
    lines(
        "Latency budget: burn rate",
        f"How many times as many answers come too late as the objective of {OBJECTIVE_IN_TIME:.0%} within "
        f"{IN_TIME_S * 1000:g} ms leaves, over an hour. {BURN}",
        "none",
        Query(f"model:torchere_latency:burn_rate1h{{{PLACE}}}", "{{job}} {{model}}"),
    ).limited((1, YELLOW), (6, ORANGE), (14.4, RED)),
    lines(
        "Error budget: burn rate",
        f"How many times as many requests fail as the objective of {OBJECTIVE_SUCCESS:.1%} leaves, over an hour. "
        f"{BURN}",
        "none",
        Query(f"model:torchere_success:burn_rate1h{{{PLACE}}}", "{{job}} {{model}}"),
    ).limited((1, YELLOW), (6, ORANGE), (14.4, RED)),
    bars(
        "Budgets over three days",
        "Burn rates over three days: beyond 1 an objective is missed.",
        "none",
        Query(f"model:torchere_latency:burn_rate3d{{{PLACE}}}", "{{model}}: latency"),
        Query(f"model:torchere_success:burn_rate3d{{{PLACE}}}", "{{model}}: errors"),
    )
    .limited((0.8, YELLOW), (1, RED))
    .bounded(0, 2),
)

SATURATION = (
    lines(
        "Queues",
        "How full each model's queue is. When it is full, requests are rejected.",
        "percentunit",
        Query(
            f"sum by (model) (torchere_queue_depth{{{SERVICE}}}) / sum by (model) (torchere_queue_limit{{{SERVICE}}})",
            "{{model}}",
        ),
    )
    .bounded(0, 1)
    .limited((0.8, RED)),
    lines(
        "Time in the queue, 99 %",
        "99 of 100 requests began to run within this time. What autoscalers look at is its mean.",
        "s",
        Query(quantile(0.99, QUEUE, f'{SERVICE},phase="queue"', "model"), "{{model}}"),
    ),
    lines(
        "Requests under way",
        "In flight: accepted and not yet answered. Of these some wait in a queue, some are in a batch that runs.",
        "none",
        Query(f"sum(torchere_requests_in_flight{{{SERVICE}}})", "in flight"),
        Query(f"sum(torchere_queue_depth{{{SERVICE}}})", "waiting"),
        Query(f"sum(torchere_requests_running{{{SERVICE}}})", "running"),
    ),
    lines(
        "CPU by process",
        "Cores that each kind of process keeps busy.",
        "none",
        Query(rate("torchere_process_cpu_seconds_total", SERVICE, "process"), "{{process}}"),
    ).stacked(),
    lines(
        "Memory by process",
        "Resident memory of each kind of process.",
        "bytes",
        Query(f"sum by (process) (torchere_process_resident_bytes{{{SERVICE}}})", "{{process}}"),
    ).stacked(),
    lines(
        "Machines",
        "Share of each machine's CPU and memory in use, whoever uses it.",
        "percentunit",
        Query(f"max by (instance) (torchere_host_cpu_utilization_ratio{{{SERVICE}}})", "{{instance}}: CPU"),
        Query(
            f"max by (instance) (torchere_host_memory_used_bytes{{{SERVICE}}} "
            f"/ torchere_host_memory_total_bytes{{{SERVICE}}})",
            "{{instance}}: memory",
        ),
    )
    .bounded(0, 1)
    .limited((0.9, RED)),
    lines(
        "Processes that died",
        "Within an hour; each was started again, and what it was working on has failed.",
        "none",
        Query(f"sum by (process) (increase(torchere_process_restarts_total{{{SERVICE}}}[1h]))", "{{process}}"),
    )
    .sized(8, 7)
    .limited((1, RED)),
    lines(
        "Processes",
        "Processes that live, by kind.",
        "none",
        Query(f"sum by (process) (torchere_processes{{{SERVICE}}})", "{{process}}"),
    ).sized(8, 7),
    lines(
        "Traces",
        "Requests whose trace was exported; dropped, as too many waited; or failed: the collector did not take it.",
        "reqps",
        Query(rate("torchere_traces_total", SERVICE, "outcome"), "{{outcome}}"),
    )
    .sized(8, 7)
    .stacked()
    .coloured({"exported": GREEN, "dropped": ORANGE, "failed": RED})
    .absent("nothing is traced"),
)

BY_VERSION = "sum by (model, version)"
MODELS = (
    table(
        "What serves",
        "Each version of each model, by what it serves and how. A click on a name leads to its dashboard.",
        (
            Column(
                "model",
                "Model",
                properties={"links": [{"title": "This model", "url": TO_MODEL + "${__value.text:percentencode}"}]},
            ),
            *ARTIFACT,
            Column("A", "Instances"),
            Column("B", "Requests", "reqps"),
            Column("C", "Latency, 99 %", "s"),
            Column("D", "Waiting"),
        ),
        Query(f"{BY_VERSION[:-1]}, backend, precision, variant, device) (torchere_model_info{{{SERVICE}}})"),
        Query(f'{BY_VERSION} (rate({REQUESTS}{{{SERVICE},model!=""}}[5m]))'),
        Query(f"histogram_quantile(0.99, sum by (model, version, le) (rate({LATENCY}_bucket{{{SERVICE}}}[5m])))"),
        Query(f"{BY_VERSION} (torchere_queue_depth{{{SERVICE}}})"),
    ).sized(16, 9),
    table(
        "Instances",
        "Each instance that tells metrics, and its version of torchere.",
        (Column("instance", "Instance"), Column("version", "torchere"), Column("namespace", "Namespace")),
        Query(f"count by (instance, version, namespace) (torchere_build_info{{{SERVICE}}})"),
    ).sized(8, 9),
)

OVERVIEW = Dashboard(
    "overview",
    "overview",
    "Does it serve, well enough, and how much is left.",
    places(),
    (
        Section("At a glance", GLANCE),
        Section("Requests, errors, duration", TRAFFIC),
        Section("Objectives", BUDGETS),
        Section("Saturation", SATURATION),
        Section("Models", MODELS),
    ),
)
