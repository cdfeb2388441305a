"""The dashboard of the compiler: what serves each model, what lost and why, what the cache saved.

Knows the metrics; `panels.py` knows Grafana.
"""

from __future__ import annotations

from deploy.grafana.dashboard import Dashboard, Section, places, values
from deploy.grafana.expressions import MODELS, SERVICE, rate
from deploy.grafana.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    YELLOW,
    Column,
    Query,
    bars,
    lines,
    stat,
    states,
    table,
)

OUTCOMES = {
    "chosen": GREEN, "passed": BLUE, "slower": YELLOW, "inaccurate": ORANGE, "failed": RED, "skipped": GREY,
    "unsupported": GREY,
}  # fmt: skip
COLOURED_TEXT = {
    "custom__cellOptions": {"type": "color-text"},
    "mappings": [{"type": "value", "options": {name: {"color": colour} for name, colour in OUTCOMES.items()}}],
}
KEY = "model, version"
ARTIFACT = (  # columns, as torchere_model_info labels them; the overview shows them too
    Column("version", "Version"),
    Column("backend", "Backend"),
    Column("precision", "Precision"),
    Column("variant", "Variant"),
    Column("device", "Device"),
)
CACHE = "torchere_cache_requests_total"
READY, OPTIMISED = f"torchere_model_ready{{{MODELS}}}", f"torchere_model_optimised{{{MODELS}}}"

GLANCE = (
    stat("Ready", "Model versions that serve, over all instances.", "none", Query(f"sum({READY})")),
    stat(
        "Compiled",
        "Those that serve with the winner of the race.",
        "none",
        Query(f"sum({OPTIMISED})"),
    ),
    stat(
        "Uncompiled",
        "Those that serve with something else: the winner is being compiled, or there is none.",
        "none",
        Query(f"sum({READY} * (1 - {OPTIMISED}))"),
    ).limited((1, YELLOW)),
    stat(
        "Taken from the cache",
        "Share of the artifacts asked of the compile cache that were there, since the service began to count.",
        "percentunit",
        Query(f'(sum({CACHE}{{{SERVICE},result="hit"}}) or 0 * sum({CACHE}{{{SERVICE}}})) / sum({CACHE}{{{SERVICE}}})'),
    ),
    stat(
        "Cache",
        "How full the compile cache is. What was used longest ago is removed when it is full. Empty: it has no limit.",
        "percentunit",
        Query(f"max(torchere_cache_bytes{{{SERVICE}}} / (torchere_cache_limit_bytes{{{SERVICE}}} > 0))"),
    ).limited((0.8, YELLOW), (0.9, RED)),
    stat(
        "Swaps",
        "Times an artifact took the place of another between two batches, since the service began to count.",
        "none",
        Query(f"sum(torchere_swaps_total{{{MODELS}}})"),
    ).absent("0"),
)

SERVING = (
    states(
        "How versions served",
        "Missing, on the fallback, or compiled; the worst of all instances.",
        Query(f"min by ({KEY}) ({READY} + {OPTIMISED})", "{{model}} {{version}}"),
    )
    .named({0: ("missing", RED), 1: ("fallback", YELLOW), 2: ("compiled", GREEN)})
    .limited((1, YELLOW), (2, GREEN), base=RED),
    table(
        "What serves",
        "The artifact of each version: its backend, precision, variant and device, and on how many instances.",
        (
            Column("model", "Model"),
            *ARTIFACT,
            Column("A", "Instances"),
            Column("B", "Loaded in", "s"),
        ),
        Query(f"sum by ({KEY}, backend, precision, variant, device) (torchere_model_info{{{MODELS}}})"),
        Query(f"max by ({KEY}) (torchere_model_load_seconds{{{MODELS}}})"),
    ).sized(14, 9),
    table(
        "Swaps",
        "Which artifact took the place of which, and how often.",
        (
            Column("model", "Model"),
            Column("version", "Version"),
            Column("from_backend", "From"),
            Column("to_backend", "To"),
            Column("A", "Times"),
        ),
        Query(f"sum by ({KEY}, from_backend, to_backend) (torchere_swaps_total{{{MODELS}}})"),
    ).sized(10, 9),
)

LADDER = (
    table(
        "The ladder",
        "What became of each candidate when what serves was compiled. `torchere models show MODEL` has the reasons.",
        (
            Column("model", "Model"),
            Column("version", "Version"),
            Column("backend", "Backend"),
            Column("precision", "Precision"),
            Column("outcome", "Outcome", properties=COLOURED_TEXT),
            Column("A", "Rungs"),
        ),
        Query(f"max by ({KEY}, backend, precision, outcome) (torchere_compile_candidates{{{MODELS}}})"),
    ).sized(14, 10),
    bars(
        "Outcomes",
        "Candidates of all models, by what became of them.",
        "none",
        Query(
            f"sum by (outcome) (max by ({KEY}, backend, precision, outcome) (torchere_compile_candidates{{{MODELS}}}))",
            "{{outcome}}",
        ),
    )
    .coloured(OUTCOMES)
    .sized(10, 10),
)

TIME = (
    bars(
        "Time of the stages",
        "Seconds in each stage when what serves was compiled, over all models.",
        "s",
        Query(f"sum by (stage) (max by ({KEY}, stage) (torchere_compile_seconds{{{MODELS}}}))", "{{stage}}"),
    ),
    bars(
        "Time of the models",
        "Seconds in all stages when what serves was compiled.",
        "s",
        Query(
            f"sum by ({KEY}) (max by ({KEY}, stage) (torchere_compile_seconds{{{MODELS}}}))", "{{model}} {{version}}"
        ),
    ),
    lines(
        "Time on the fallback",
        "Instances on which a version serves with something else than the winner of the race.",
        "none",
        Query(rate("torchere_fallback_seconds_total", MODELS, KEY), "{{model}} {{version}}"),
    ).stacked(),
    lines(
        "CPU of the builders",
        "Cores that compiling keeps busy.",
        "none",
        Query(rate("torchere_process_cpu_seconds_total", f'{SERVICE},process="builder"', "instance"), "{{instance}}"),
    )
    .stacked()
    .absent("nothing was compiled"),
    lines(
        "Cache",
        "Size of the compile cache, and the largest that it may have.",
        "bytes",
        Query(f"max by (instance) (torchere_cache_bytes{{{SERVICE}}})", "{{instance}}"),
        Query(f"max(torchere_cache_limit_bytes{{{SERVICE}}} > 0)", "limit"),
    ).coloured({"limit": RED}),
    lines(
        "Artifacts asked of the cache",
        "hit: it was there. miss: it had to be compiled. Counted since the service began to count.",
        "none",
        Query(f"sum by (result) ({CACHE}{{{SERVICE}}})", "{{result}}"),
    ).coloured({"hit": GREEN, "miss": ORANGE}),
)

TENSORRT = (
    bars(
        "TensorRT: operators",
        "Share of each model's operators that lie in TensorRT engines; PyTorch runs the rest.",
        "percentunit",
        Query(f'max by ({KEY}) (torchere_tensorrt_coverage_ratio{{{MODELS},of="operators"}})', "{{model}} {{version}}"),
    )
    .bounded(0, 1)
    .absent("no model is served by TensorRT")
    .sized(12, 7),
    bars(
        "TensorRT: parameters",
        "Share of each model's parameters that lie in TensorRT engines.",
        "percentunit",
        Query(
            f'max by ({KEY}) (torchere_tensorrt_coverage_ratio{{{MODELS},of="parameters"}})', "{{model}} {{version}}"
        ),
    )
    .bounded(0, 1)
    .absent("no model is served by TensorRT")
    .sized(12, 7),
)

COMPILER = Dashboard(
    "compiler",
    "compiler",
    "What serves each model, what lost and why, what the cache saved.",
    (
        *places(),
        values("model", "torchere_model_ready", SERVICE, "Model"),
        values("version", "torchere_model_ready", f'{SERVICE},model=~"$model"', "Version"),
    ),
    (
        Section("At a glance", GLANCE),
        Section("What serves", SERVING),
        Section("The ladder", LADDER),
        Section("Time and cache", TIME),
        Section("TensorRT", TENSORRT),
    ),
)
