"""The dashboard of the GPUs: how busy, how full, how hot; what models take of them.

Knows the metrics; `panels.py` knows Grafana. They need the driver and the extra `nvml`.
"""

from __future__ import annotations

from deploy.grafana.dashboard import Dashboard, Section, places, values
from deploy.grafana.expressions import CLIENTS, GPUS, SERVICE, rate
from deploy.grafana.panels import ORANGE, RED, Panel, Query, lines, stat

NONE = "no GPU tells"
CARD = "{{instance}} {{gpu}}"
USED, TOTAL = f"torchere_gpu_memory_used_bytes{{{GPUS}}}", f"torchere_gpu_memory_total_bytes{{{GPUS}}}"
POWER, LIMIT = f"torchere_gpu_power_watts{{{GPUS}}}", f"torchere_gpu_power_limit_watts{{{GPUS}}}"
ENERGY = rate("torchere_gpu_energy_joules_total", GPUS)
ANSWERED = rate("torchere_requests_total", f'{CLIENTS},outcome="success"')

GLANCE = (
    stat(
        "Utilization",
        "Share of the time in which something ran on the GPUs, whoever it belongs to: the mean.",
        "percentunit",
        Query(f"avg(torchere_gpu_utilization_ratio{{{GPUS}}})"),
    ),
    stat("Memory", "Share of the GPUs' memory in use.", "percentunit", Query(f"sum({USED}) / sum({TOTAL})")).limited(
        (0.9, ORANGE), (0.97, RED)
    ),
    stat("Power", "Of all GPUs together.", "watt", Query(f"sum({POWER})")),
    stat(
        "Hottest",
        "The temperature of the hottest GPU.",
        "celsius",
        Query(f"max(torchere_gpu_temperature_celsius{{{GPUS}}})"),
    ).limited((80, ORANGE), (90, RED)),
    stat(
        "Energy of a request",
        "Energy that the GPUs took for each request that succeeded, idle time included.",
        "joule",
        Query(f"{ENERGY} / {ANSWERED}"),
    ),
    stat("GPUs", "GPUs that tell how they are.", "none", Query(f"count(torchere_gpu_utilization_ratio{{{GPUS}}})")),
)

CARDS = (
    lines(
        "Utilization",
        "Share of the last sample in which something ran; it says nothing of how much of the GPU that took.",
        "percentunit",
        Query(f"torchere_gpu_utilization_ratio{{{GPUS}}}", CARD),
    ).bounded(0, 1),
    lines(
        "Power",
        "Power that each GPU draws, and the most that one may draw.",
        "watt",
        Query(POWER, CARD),
        Query(f"max({LIMIT})", "limit"),
    ).coloured({"limit": RED}),
    lines(
        "Temperature",
        "Beyond some 85 °C most cards slow down.",
        "celsius",
        Query(f"torchere_gpu_temperature_celsius{{{GPUS}}}", CARD),
    ).limited((85, RED)),
)

MEMORY = (
    lines(
        "Memory in use",
        "Of each GPU, whoever uses it.",
        "bytes",
        Query(USED, CARD),
        Query(f"max({TOTAL})", "of one GPU"),
    ).coloured({"of one GPU": RED}),
    lines("Memory in use: share", "The same, of what each GPU has.", "percentunit", Query(f"{USED} / {TOTAL}", CARD))
    .bounded(0, 1)
    .limited((0.97, RED)),
    lines(
        "Memory by model",
        "Taken when each version was loaded: weights, buffers and CUDA graphs.",
        "bytes",
        Query(
            f"sum by (model, version, device) (torchere_model_memory_bytes{{{SERVICE}}})",
            "{{model}} {{version}} {{device}}",
        ),
    ).stacked(),
)

WORK = (
    lines(
        "Computing by model",
        "Seconds of computing in each second, over all engines.",
        "none",
        Query(rate("torchere_phase_seconds_sum", f'{SERVICE},phase="compute"', "model"), "{{model}}"),
    ).stacked(),
    lines(
        "Copying by model",
        "Seconds of copying to and from the device in each second.",
        "none",
        Query(rate("torchere_phase_seconds_sum", f'{SERVICE},phase=~"copy_in|copy_out"', "model"), "{{model}}"),
    ).stacked(),
    lines(
        "Energy",
        "Power, from the energy that was counted: what the samples of power miss is in it.",
        "watt",
        Query(rate("torchere_gpu_energy_joules_total", GPUS, "instance, gpu"), CARD),
    ).stacked(),
)


def _told(panels: tuple[Panel, ...]) -> tuple[Panel, ...]:
    return tuple(each.absent(NONE) for each in panels)


GPU = Dashboard(
    "gpu",
    "GPUs",
    "How busy, how full, how hot; what models take of them. Needs the driver and torchere[nvml].",
    (*places(), values("gpu", "torchere_gpu_utilization_ratio", SERVICE, "GPU")),
    (
        Section("At a glance", _told(GLANCE)),
        Section("Cards", _told(CARDS)),
        Section("Memory", _told(MEMORY)),
        Section("What they do", _told(WORK)),
    ),
)
