"""Every metric of the service, declared once: its name, what it tells, its unit, labels and bounds.

Knows nobody who counts: `recorders.py` and `catalog_recorder.py` do, in every process. `merge.py` adds the processes
up, `sidecar.py` publishes, and docs/metrics.md is written from this file.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from service.observe.buckets import ROWS, SECONDS, Buckets

Kind = Literal["counter", "gauge", "histogram", "hidden"]
MODEL = ("model", "version")
NANO = 1e-9
EXEMPLAR_WORDS = 5  # trace id (two words), value, time, and a check over the four


class Metric(msgspec.Struct, frozen=True):
    """One metric. What is counted are whole numbers; `scale` makes them the unit.

    `merge` says what several processes are together. `outlives`: what a process that ended counted still holds.
    `hides_zero`: 0 is not shown at all.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    scale: float = 1.0
    buckets: Buckets | None = None
    merge: Literal["sum", "max"] = "sum"
    outlives: bool = True
    has_exemplars: bool = False
    hides_zero: bool = False
    words: int = 1

    @property
    def size(self) -> int:
        """The words of one series: of a histogram the sum, the buckets, and an example for each classic bucket."""
        if self.buckets is None:
            return self.words
        examples = EXEMPLAR_WORDS * (len(self.buckets.classic) + 1) if self.has_exemplars else 0
        return 1 + self.buckets.count + examples


def _counter(name: str, text: str, labels: tuple[str, ...] = MODEL, unit: str = "", scale: float = 1.0) -> Metric:
    return Metric(name, "counter", text, labels, unit, scale)


def _gauge(name: str, text: str, labels: tuple[str, ...] = MODEL, unit: str = "", scale: float = 1.0) -> Metric:
    return Metric(name, "gauge", text, labels, unit, scale, merge="max", outlives=False)


def _seconds(name: str, text: str, labels: tuple[str, ...], has_exemplars: bool = False) -> Metric:
    return Metric(name, "histogram", text, labels, "seconds", NANO, SECONDS, has_exemplars=has_exemplars)


TRACES = _counter(
    "torchere_traces",
    "Requests whose trace was exported, dropped because too many waited, or failed: the collector did not take it.",
    ("outcome",),
)

# Requests: counted by each frontend; by an engine, those of ensembles to their models.
REQUESTS = _counter(
    "torchere_requests",
    "Inference requests answered, by how they ended: success, invalid, rejected, timeout, cancelled or failed. "
    "What an ensemble asks of its models has the protocol 'ensemble'.",
    (*MODEL, "protocol", "outcome"),
)
ROWS_ANSWERED = _counter("torchere_rows", "Rows of requests answered with success.", (*MODEL, "protocol"))
LATENCY = _seconds(
    "torchere_request_seconds",
    "Time from a request's arrival to its answer, of those that succeeded.",
    (*MODEL, "protocol"),
    has_exemplars=True,
)
FAILED_SECONDS = _counter(
    "torchere_failed_request_seconds",
    "Time that requests took which were rejected, timed out, cancelled or failed.",
    MODEL,
    "seconds",
    NANO,
)
IN_FLIGHT = Metric(
    "torchere_requests_in_flight", "gauge", "Inference requests being worked on, in all frontends.", outlives=False
)
LAST = Metric(
    "torchere_last_inference_timestamp_seconds",
    "gauge",
    "When a request was last answered with success, since 1970.",
    MODEL,
    "seconds",
    1e-3,
    merge="max",
)
KEPT = _counter(
    "torchere_response_cache_lookups", "Times a kept answer was looked for, by hit or miss.", (*MODEL, "result")
)
KEPT_SECONDS = _counter(
    "torchere_response_cache_lookup_seconds",
    "Time that looking for kept answers, and keeping those that were missed, took.",
    (*MODEL, "result"),
    "seconds",
    NANO,
)

# Batches: counted by each engine; the phase `encode` by each frontend.
PHASE = _seconds(
    "torchere_phase_seconds",
    "Time in each phase: queue and encode (for each request), stack, copy_in, compute, copy_out (for each batch).",
    (*MODEL, "phase"),
)
REQUEST_PHASE_SECONDS = _counter(
    "torchere_request_phase_seconds",
    "Time that requests spent in the phases of their batches; each counts its whole batch: input (stack and copy in), "
    "compute, output.",
    (*MODEL, "phase"),
    "seconds",
    NANO,
)
BATCH = Metric(
    "torchere_batch_rows",
    "histogram",
    "Rows of requests in each batch that ran, padding left out.",
    MODEL,
    "rows",
    buckets=ROWS,
)
PADDING = _counter("torchere_padding_rows", "Rows of padding that ran.")
PADDED = _counter(
    "torchere_padded_elements",
    "Elements of inputs whose sizes are padded: those of requests, and those of padding, with its rows.",
    (*MODEL, "kind"),
)
DISPATCHES = _counter(
    "torchere_batches",
    "Batches taken from the queue, by why just then: full, preferred (one of preferred_batch_sizes), idle (an instance "
    "was free), delay (max_queue_delay_us).",
    (*MODEL, "reason"),
)
QUEUE_DEPTH = Metric(
    "torchere_queue_depth", "gauge", "Requests that wait in the queue, in all engines.", MODEL, outlives=False
)
QUEUE_LIMIT = Metric(
    "torchere_queue_limit",
    "gauge",
    "Requests that may wait in the queue, in all engines: max_queue_size of each.",
    MODEL,
    outlives=False,
)
RUNNING = Metric(
    "torchere_requests_running", "gauge", "Requests whose batch runs, in all engines.", MODEL, outlives=False
)
MODEL_MEMORY = Metric(
    "torchere_model_memory_bytes",
    "gauge",
    "Memory of the GPU that was taken when the version was loaded: weights, buffers and CUDA graphs.",
    (*MODEL, "device"),
    "bytes",
    outlives=False,
)
INPUT = Metric(  # stack and copy in together, which two histograms do not tell
    "batch_input", "hidden", "", MODEL, scale=NANO, buckets=SECONDS
)
BATCH_TIMES = Metric("batch_times", "hidden", "", (*MODEL, "rows"), words=4)  # batches; ns of input, compute, output

# Models, the compiler, processes: set by the parent.
READY = _gauge("torchere_model_ready", "1 when the model version answers requests.")
WANTED = _gauge("torchere_model_wanted", "1 when it should: 0 where nobody has asked for it, or it was unloaded.")
INFO = Metric(
    "torchere_model_info",
    "gauge",
    "1 for the artifact that serves a model version: its backend, precision, variant and device.",
    (*MODEL, "backend", "precision", "variant", "device"),
    merge="max",
    outlives=False,
    hides_zero=True,
)
OPTIMISED = _gauge(
    "torchere_model_optimised", "1 when the winner of the race serves, 0 while or because something else does."
)
LOAD_SECONDS = _gauge(
    "torchere_model_load_seconds", "Time until an engine had loaded the version, at last.", MODEL, "seconds", NANO
)
FALLBACKS = _counter("torchere_fallback", "Times a model version began to serve before it was compiled.")
FALLBACK_SECONDS = _counter(
    "torchere_fallback_seconds", "Time that a version served on its fallback.", MODEL, "seconds", NANO
)
SWAPS = _counter(
    "torchere_swaps",
    "Times an artifact took the place of another between two batches.",
    (*MODEL, "from_backend", "to_backend"),
)
COMPILE = _gauge(
    "torchere_compile_seconds",
    "Time spent in each stage when the artifact was compiled.",
    (*MODEL, "stage"),
    "seconds",
    NANO,
)
CANDIDATES = Metric(
    "torchere_compile_candidates",
    "gauge",
    "Rungs of the ladder that ended so when what serves was compiled: chosen, passed, slower, inaccurate, failed, "
    "skipped or unsupported.",
    (*MODEL, "backend", "precision", "outcome"),
    merge="max",
    outlives=False,
    hides_zero=True,
)
COVERAGE = _gauge(
    "torchere_tensorrt_coverage_ratio",
    "Share of the operators, and of the parameters, that lie in TensorRT engines.",
    (*MODEL, "of"),
    "ratio",
    1e-6,
)
CACHE = _counter("torchere_cache_requests", "Artifacts asked of the compile cache, by hit or miss.", ("result",))
CACHE_BYTES = _gauge("torchere_cache_bytes", "Size of the compile cache, as it was after the last change.", (), "bytes")
CACHE_LIMIT = _gauge("torchere_cache_limit_bytes", "Largest size of the compile cache; 0: none.", (), "bytes")
RESTARTS = _counter("torchere_process_restarts", "Child processes that died and were started again.", ("process",))
CPU_SECONDS = _counter(
    "torchere_process_cpu_seconds",
    "Time of the CPU used: parent, frontends, engines, steps, builders, sidecar.",
    ("process",),
    "seconds",
    NANO,
)
RESIDENT = _gauge("torchere_process_resident_bytes", "Memory resident (RSS).", ("process",), "bytes")
PROCESSES = _gauge("torchere_processes", "Processes that live.", ("process",))
BUILD = _gauge("torchere_build_info", "1: the version of the service.", ("version",))

# The machine: asked by the sidecar when it is asked (`gpu.py`, `machine.py`).
GPU = ("gpu", "gpu_uuid", "name")
GPU_UTILISATION = _gauge(
    "torchere_gpu_utilization_ratio", "Share of the last sample in which the GPU ran.", GPU, "ratio", 1e-2
)
GPU_USED = _gauge("torchere_gpu_memory_used_bytes", "Memory of the GPU in use, whoever uses it.", GPU, "bytes")
GPU_TOTAL = _gauge("torchere_gpu_memory_total_bytes", "Memory of the GPU.", GPU, "bytes")
GPU_POWER = _gauge("torchere_gpu_power_watts", "Power that the GPU draws.", GPU, "watts", 1e-3)
GPU_LIMIT = _gauge("torchere_gpu_power_limit_watts", "Power that the GPU may draw.", GPU, "watts", 1e-3)
GPU_ENERGY = _counter("torchere_gpu_energy_joules", "Energy since the driver was loaded.", GPU, "joules", 1e-3)
GPU_TEMPERATURE = _gauge("torchere_gpu_temperature_celsius", "Temperature of the GPU.", GPU, "celsius")
HOST_CPU = _gauge(
    "torchere_host_cpu_utilization_ratio",
    "Share of the machine's CPU used since the last scrape.",
    (),
    "ratio",
    1e-6,
)
HOST_TOTAL = _gauge("torchere_host_memory_total_bytes", "Memory of the machine.", (), "bytes")
HOST_USED = _gauge("torchere_host_memory_used_bytes", "Memory of the machine that is not available.", (), "bytes")

METRICS: tuple[Metric, ...] = tuple(found for found in list(globals().values()) if isinstance(found, Metric))
BY_NAME = {metric.name: metric for metric in METRICS}


def merge_of(name: str) -> str:
    """What becomes of the words of a process that ended: "sum", "max", or "" where they end with it."""
    metric = BY_NAME.get(name)
    return metric.merge if metric is not None and metric.outlives else ""
