"""The dashboard of one model: where the time of its requests goes, and how its batches are made.

Knows the metrics; `panels.py` knows Grafana.
"""

from __future__ import annotations

from deploy.grafana.dashboard import Dashboard, Section, places, values
from deploy.grafana.expressions import BAD, EXPECTED, MODEL, SERVICE, buckets, mean, quantile, rate, share
from deploy.grafana.panels import BLUE, GREEN, ORANGE, OUTCOMES, RED, YELLOW, Query, heat, lines, stat

REQUESTS, LATENCY, PHASE = "torchere_requests_total", "torchere_request_seconds", "torchere_phase_seconds"
PADDING, ROWS, LOOKUPS = "torchere_padding_rows_total", "torchere_batch_rows", "torchere_response_cache_lookups_total"
ELEMENTS = "torchere_padded_elements_total"
LOOKUP_SECONDS = "torchere_response_cache_lookup_seconds_total"
TELLS = {
    "queue": "Waiting in the queue, for each request.",
    "stack": "Laying the rows of a batch side by side.",
    "copy_in": "Bringing a batch to the device.",
    "compute": "The model itself, for each batch.",
    "copy_out": "Bringing the outputs back.",
    "encode": "Turning an answer into its protocol's bytes, for each request.",
}


def _padding(by: str = "") -> str:
    padded = rate(PADDING, MODEL, by)
    return f"{padded} / ({padded} + {rate(f'{ROWS}_sum', MODEL, by)})"


GLANCE = tuple(
    each.sized(3, 4)
    for each in (
        stat("Requests", "Requests that ended in a second.", "reqps", Query(rate(REQUESTS, MODEL))),
        stat(
            "Failing",
            "Share of the requests that failed, were rejected or timed out.",
            "percentunit",
            Query(share(rate(REQUESTS, f"{MODEL},{BAD}"), rate(REQUESTS, f"{MODEL},{EXPECTED}"))),
        ).limited((0.001, ORANGE), (0.01, RED)),
        stat("Median", "Half of the answers came within this time.", "s", Query(quantile(0.5, LATENCY, MODEL))),
        stat("99 %", "99 of 100 answers came within this time.", "s", Query(quantile(0.99, LATENCY, MODEL))),
        stat(
            "Ready on",
            "Share of the instances that should serve it and do.",
            "percentunit",
            Query(f"sum(torchere_model_ready{{{MODEL}}}) / sum(torchere_model_wanted{{{MODEL}}})"),
        ).limited((0.5, ORANGE), (1, GREEN), base=RED),
        stat("Rows in a batch", "The mean, padding left out.", "none", Query(mean(ROWS, MODEL))),
        stat(
            "Padding",
            "Share of the rows that ran and were padding: a batch runs at the next size that was verified.",
            "percentunit",
            Query(_padding()),
        ).limited((0.25, YELLOW), (0.5, ORANGE)),
        stat(
            "Waiting",
            "Requests in the queue, in all engines.",
            "none",
            Query(f"sum(torchere_queue_depth{{{MODEL}}})"),
        ),
    )
)

LATENCIES = (
    heat(
        "Latency: how often",
        "How many answers took how long, from arrival to answer.",
        "s",
        buckets(LATENCY, MODEL),
    ).sized(12, 9),
    lines(
        "Latency: quantiles",
        "From arrival to answer, of requests that succeeded; points are examples with their traces.",
        "s",
        *(
            Query(quantile(which, LATENCY, MODEL), f"{which * 100:g} %", which == 0.99)
            for which in (0.5, 0.9, 0.99, 0.999)
        ),
    ).sized(12, 9),
)

TIMES = (
    *(
        heat(f"Phase {name}", text, "s", buckets(PHASE, f'{MODEL},phase="{name}"')).sized(8, 6)
        for name, text in TELLS.items()
    ),
    lines(
        "Mean of each phase",
        "queue and encode of each request, the others of each batch.",
        "s",
        Query(mean(PHASE, MODEL, "phase"), "{{phase}}"),
    )
    .sized(12, 8)
    .stacked(),
    lines(
        "99 % of each phase",
        "queue and encode of each request, the others of each batch.",
        "s",
        Query(quantile(0.99, PHASE, MODEL, "phase"), "{{phase}}"),
    ).sized(12, 8),
)

BATCHES = (
    heat(
        "Rows in a batch: how often",
        "How many batches had how many rows, padding left out.",
        "none",
        buckets(ROWS, MODEL),
    ).sized(6, 8),
    lines(
        "Rows in a batch: mean",
        "The mean, padding left out.",
        "none",
        Query(mean(ROWS, MODEL, "version"), "version {{version}}"),
    ).sized(6, 8),
    lines(
        "Padding",
        "Share of the rows that ran and were padding.",
        "percentunit",
        Query(_padding("version"), "version {{version}}"),
    )
    .bounded(0, 1)
    .limited((0.5, ORANGE))
    .sized(6, 8),
    lines(
        "Padding in elements",
        "Share of the elements of inputs that were padding, its rows included, where batching.pad lets requests of "
        "other sizes share a batch: more sizes in dims make it less.",
        "percentunit",
        Query(
            share(rate(ELEMENTS, f'{MODEL},kind="padding"', "version"), rate(ELEMENTS, MODEL, "version")),
            "version {{version}}",
        ),
    )
    .bounded(0, 1)
    .limited((0.5, ORANGE))
    .absent("no sizes are padded")
    .sized(6, 8),
    lines(
        "Why batches ran",
        "full: no more fit in. preferred: one of preferred_batch_sizes. idle: an instance was free, and a batch never "
        "waits then, unless it is told to. delay: max_queue_delay_us had passed.",
        "cps",
        Query(rate("torchere_batches_total", MODEL, "reason"), "{{reason}}"),
    )
    .stacked()
    .coloured({"full": ORANGE, "preferred": YELLOW, "idle": GREEN, "delay": BLUE}),
    lines(
        "Rows",
        "Rows of requests answered with success.",
        "rowsps",
        Query(rate("torchere_rows_total", MODEL, "version"), "version {{version}}"),
    ).stacked(),
    lines(
        "Time that computing takes",
        "Seconds of computing in each second, over all engines and instances: what nears their number is saturated.",
        "none",
        Query(rate(f"{PHASE}_sum", f'{MODEL},phase="compute"', "version"), "version {{version}}"),
    ),
)

QUEUES = (
    lines(
        "Queue",
        "Requests that wait, and how many may. Beyond that they are rejected.",
        "none",
        Query(f"sum(torchere_queue_depth{{{MODEL}}})", "waiting"),
        Query(f"sum(torchere_queue_limit{{{MODEL}}})", "limit"),
        Query(f"sum(torchere_requests_running{{{MODEL}}})", "running"),
    ).coloured({"limit": RED, "waiting": ORANGE, "running": GREEN}),
    lines(
        "Time in the queue",
        "How long requests wait before their batch runs.",
        "s",
        *(Query(quantile(which, PHASE, f'{MODEL},phase="queue"'), f"{which * 100:g} %") for which in (0.5, 0.9, 0.99)),
    ),
    lines(
        "Time of failures",
        "Seconds, in each second, that requests took which then failed, were rejected, timed out or were cancelled.",
        "none",
        Query(rate("torchere_failed_request_seconds_total", MODEL, "version"), "version {{version}}"),
    ),
    lines(
        "Requests by outcome",
        "invalid: the client's fault. rejected: no room in the queue. timeout: its time ran out. failed: the fault of "
        "the model or the service.",
        "reqps",
        Query(rate(REQUESTS, MODEL, "outcome"), "{{outcome}}"),
    )
    .stacked()
    .coloured(OUTCOMES),
    lines(
        "Requests by protocol",
        "ensemble: asked by an ensemble that this model is a step of.",
        "reqps",
        Query(rate(REQUESTS, MODEL, "protocol"), "{{protocol}}"),
    ).stacked(),
    lines(
        "Requests by version",
        "What aliases and clients send where.",
        "reqps",
        Query(rate(REQUESTS, MODEL, "version"), "version {{version}}"),
    ).stacked(),
)

KEPT = (
    lines(
        "Response cache",
        "Answers that were looked for among those kept: hit or miss. Empty where the model keeps none.",
        "reqps",
        Query(rate(LOOKUPS, MODEL, "result"), "{{result}}"),
    )
    .stacked()
    .coloured({"hit": GREEN, "miss": ORANGE})
    .absent("no response cache"),
    lines(
        "Response cache: hits",
        "Share of the lookups that found an answer.",
        "percentunit",
        Query(share(rate(LOOKUPS, f'{MODEL},result="hit"'), rate(LOOKUPS, MODEL)), "hits"),
    )
    .bounded(0, 1)
    .absent("no response cache"),
    lines(
        "Response cache: time",
        "Mean time of a lookup, and of keeping the answer after a miss.",
        "s",
        Query(
            f"{rate(LOOKUP_SECONDS, MODEL, 'result')} / {rate(LOOKUPS, MODEL, 'result')}",
            "{{result}}",
        ),
    ).absent("no response cache"),
)

MODEL_DASHBOARD = Dashboard(
    "model",
    "one model",
    "Where the time of a model's requests goes, and how its batches are made.",
    (
        *places(),
        values("model", "torchere_model_ready", SERVICE, "Model", is_single=True),
        values("version", "torchere_model_ready", f'{SERVICE},model="$model"', "Version"),
    ),
    (
        Section("At a glance", GLANCE),
        Section("Latency", LATENCIES),
        Section("Phases: where the time goes", TIMES),
        Section("Batches", BATCHES),
        Section("Queue and outcomes", QUEUES),
        Section("Response cache", KEPT),
    ),
)
