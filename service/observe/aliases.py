"""The same counts under the names that Triton and TensorFlow Serving give them, for their dashboards and tools.

Pure: every alias is computed from our own words, so that it cannot disagree with them. Where no name of ours means the
same, there is no alias: summaries (quantiles of one process that no one can merge) and Triton's pinned memory pool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Literal

from service.observe import metrics
from service.observe.buckets import ROWS, SECONDS, Buckets, Counts
from service.observe.families import Family, Histogram, Sample, first, histograms
from service.observe.merge import Labels, Merged
from service.observe.metrics import MODEL, Kind, Metric

Aliases = Literal["none", "triton", "tf_serving", "all"]
NS_PER_US, NS_PER_MS = 1000, 1_000_000
FIRST_RESPONSE_MS = (100.0, 500.0, 2000.0, 5000.0)
FAILURES = {
    "rejected": "REJECTED",
    "timeout": "REJECTED",
    "cancelled": "CANCELED",
    "failed": "BACKEND",
    "invalid": "OTHER",
}
PARTS = {"compute_input": "input", "compute_infer": "compute", "compute_output": "output"}
HISTOGRAM_PHASES = {"queue": "queue", "compute_infer": "compute", "compute_output": "copy_out"}
STATUS = {"success": "OK", "invalid": "INVALID_ARGUMENT", "timeout": "DEADLINE_EXCEEDED", "cancelled": "CANCELLED",
               "rejected": "UNAVAILABLE", "failed": "INTERNAL"}  # fmt: skip
TFS = ":tensorflow:serving:"


def alias_families(merged: Merged, which: Aliases) -> list[Family]:
    """The families of these other servers; those without a sample are left out."""
    found: list[Family] = []
    if which in ("triton", "all"):
        found += [*_triton_requests(merged), *_triton_times(merged), *_triton_devices(merged)]
    if which in ("tf_serving", "all"):
        found += _tf_serving(merged)
    return [family for family in found if family.samples]


def _summed(
    merged: Merged, metric: Metric, choose: Callable[[Labels], Labels | None], count: int = 1
) -> dict[Labels, Counts]:
    """The words of a metric, added up by the labels that `choose` makes of its own; None: not counted."""
    sums: dict[Labels, Counts] = {}
    for labels, words in merged.get(metric.name, {}).items():
        key = choose(labels)
        if key is not None:
            sums[key] = sums[key] + words[:count] if key in sums else words[:count].copy()
    return sums


def _numbers(sums: dict[Labels, Counts], divisor: float = 1) -> list[Sample]:
    return [(labels, int(words[0]) / divisor) for labels, words in sorted(sums.items(), key=first)]


def _histograms(sums: dict[Labels, Counts], buckets: Buckets, divisor: float) -> list[Sample]:
    return histograms(buckets, sums, divisor)


def _family(
    name: str, kind: Kind, text: str, samples: list[Sample], labels: Labels = MODEL, bounds: Iterable[float] = ()
) -> Family:
    return Family(name, kind, text, labels, samples, bounds=tuple(bounds), is_bare=True)


def _model(labels: Labels) -> Labels | None:
    return labels[:2] if labels[1] else None  # no version: no such model


def _only(at: int, value: str) -> Callable[[Labels], Labels | None]:
    return lambda labels: _model(labels) if labels[at] == value else None


def _triton_requests(merged: Merged) -> list[Family]:
    failed = _summed(
        merged,
        metrics.REQUESTS,
        lambda labels: (*labels[:2], FAILURES[labels[3]]) if labels[1] and labels[3] in FAILURES else None,
    )
    batches = {labels: words[1:].sum(keepdims=True) for labels, words in merged.get(metrics.BATCH.name, {}).items()}
    found = [
        (
            "request_success",
            "Inference requests that succeeded.",
            _summed(merged, metrics.REQUESTS, _only(3, "success")),
        ),
        ("count", "Rows that were inferred, kept answers left out.", _summed(merged, metrics.BATCH, _model)),
        ("exec_count", "Batches that ran.", batches),
    ]
    families = [_family(f"nv_inference_{name}", "counter", text, _numbers(sums)) for name, text, sums in found]
    families.append(
        _family(
            "nv_inference_request_failure",
            "counter",
            "Inference requests that failed, by reason.",
            _numbers(failed),
            (*MODEL, "reason"),
        )
    )
    for result, name in (("hit", "hits"), ("miss", "misses")):
        chosen = _only(2, result)
        looked_up, spent = _summed(merged, metrics.KEPT, chosen), _summed(merged, metrics.KEPT_SECONDS, chosen)
        families += [
            _family(f"nv_cache_num_{name}_per_model", "counter", f"Response cache {name}.", _numbers(looked_up)),
            _family(
                f"nv_cache_{result}_duration_per_model",
                "counter",
                f"Microseconds that response cache {name} took.",
                _numbers(spent, NS_PER_US),
            ),
        ]
    return families


def _triton_times(merged: Merged) -> list[Family]:
    latency = _summed(merged, metrics.LATENCY, _model, 1 + SECONDS.count)
    queue = _summed(merged, metrics.PHASE, _only(2, "queue"), 1 + SECONDS.count)
    spent = {"request": latency, "queue": queue}
    for name, part in PARTS.items():
        spent[name] = _summed(merged, metrics.REQUEST_PHASE_SECONDS, _only(2, part))
    families = [
        _family(
            f"nv_inference_{name}_duration_us",
            "counter",
            f"Microseconds that requests spent: {name}.",
            _numbers(sums, NS_PER_US),
        )
        for name, sums in spent.items()
    ]
    compute_input = _summed(merged, metrics.INPUT, _model, 1 + SECONDS.count)
    phases = {"request": latency, "compute_input": compute_input} | {
        name: _summed(merged, metrics.PHASE, _only(2, phase), 1 + SECONDS.count)
        for name, phase in HISTOGRAM_PHASES.items()
    }
    families += [
        _family(
            f"nv_inference_{name}_duration_histogram_us",
            "histogram",
            f"Microseconds: {name}; of the parts of compute, for each batch.",
            _histograms(sums, SECONDS, NS_PER_US),
            bounds=[round(bound * 1e6, 3) for bound in SECONDS.classic],
        )
        for name, sums in phases.items()
    ]
    families.append(_first_response(latency))
    pending = _summed(merged, metrics.QUEUE_DEPTH, _model)
    loading = _summed(merged, metrics.LOAD_SECONDS, _model)
    return [
        *families,
        _family("nv_inference_pending_request_count", "gauge", "Requests that wait.", _numbers(pending)),
        _family("nv_model_load_duration_secs", "gauge", "Seconds to load the model.", _numbers(loading, 1e9)),
    ]


def _first_response(latency: dict[Labels, Counts]) -> Family:
    """The same latencies by Triton's bounds; our fine buckets have each of them."""
    at = [_fine_below(round(bound * NS_PER_MS)) for bound in FIRST_RESPONSE_MS]
    samples: list[Sample] = []
    for labels, words in sorted(latency.items(), key=first):
        sums = words[1:].cumsum()
        cumulated = [*(int(sums[index - 1]) for index in at), int(sums[-1])]
        samples.append((labels, Histogram(int(words[0]) / NS_PER_MS, cumulated)))
    return _family(
        "nv_inference_first_response_histogram_ms",
        "histogram",
        "Milliseconds to the first response.",
        samples,
        bounds=FIRST_RESPONSE_MS,
    )


def _fine_below(nanoseconds: int) -> int:
    return SECONDS.bounds.index(nanoseconds) + 1


def _triton_devices(merged: Merged) -> list[Family]:
    def of_gpu(labels: Labels) -> Labels:
        return (labels[1],)

    gauges = [
        ("nv_gpu_utilization", metrics.GPU_UTILISATION, "GPU utilisation, 0 to 1."),
        ("nv_gpu_memory_used_bytes", metrics.GPU_USED, "GPU memory in use."),
        ("nv_gpu_memory_total_bytes", metrics.GPU_TOTAL, "GPU memory."),
        ("nv_gpu_power_usage", metrics.GPU_POWER, "Watts drawn."),
        ("nv_gpu_power_limit", metrics.GPU_LIMIT, "Watts allowed."),
        ("nv_energy_consumption", metrics.GPU_ENERGY, "Joules since the driver was loaded."),
        ("nv_cpu_utilization", metrics.HOST_CPU, "CPU utilisation, 0 to 1."),
        ("nv_cpu_memory_total_bytes", metrics.HOST_TOTAL, "System memory."),
        ("nv_cpu_memory_used_bytes", metrics.HOST_USED, "System memory in use."),
    ]
    found = []
    for name, metric, text in gauges:
        labels = ("gpu_uuid",) if metric.labels else ()
        sums = _summed(merged, metric, of_gpu if metric.labels else lambda labels: labels)
        found.append(_family(name, metric.kind, text, _numbers(sums, round(1 / metric.scale)), labels))
    return found


def _tf_serving(merged: Merged) -> list[Family]:
    status: dict[Labels, float] = defaultdict(float)
    for labels, words in merged.get(metrics.REQUESTS.name, {}).items():
        if labels[1]:
            status[labels[0], STATUS[labels[3]]] += int(words[0])
    fine, name_only = 1 + SECONDS.count, ("model_name",)

    def by_name(metric: Metric, phase: str = "", count: int = fine) -> dict[Labels, Counts]:
        return _summed(
            merged, metric, lambda labels: labels[:1] if labels[1] and phase in ("", labels[-1]) else None, count
        )

    def times(name: str, text: str, sums: dict[Labels, Counts]) -> Family:
        bounds = [round(bound * 1e6, 3) for bound in SECONDS.classic]
        return _family(TFS + name, "histogram", text, _histograms(sums, SECONDS, NS_PER_US), name_only, bounds)

    queue = "batching_session:queuing_latency"
    rows, padding = by_name(metrics.BATCH, "", 1 + ROWS.count), by_name(metrics.PADDING, "", 1)
    return [
        _family(TFS + "request_count", "counter", "Requests.", sorted(status.items()), ("model_name", "status")),
        times("request_latency", "Microseconds of requests.", by_name(metrics.LATENCY)),
        times("runtime_latency", "Microseconds that batches computed.", by_name(metrics.PHASE, "compute")),
        times(queue, "Microseconds in the queue.", by_name(metrics.PHASE, "queue")),
        _family(
            TFS + "batching_session:processed_batch_size",
            "histogram",
            "Rows of batches.",
            _histograms(rows, ROWS, 1),
            name_only,
            ROWS.classic,
        ),
        _family(TFS + "batching_session:padding_size", "counter", "Rows of padding.", _numbers(padding), name_only),
    ]
