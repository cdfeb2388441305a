"""How busy this server is, in the words of ORCA (Open Request Cost Aggregation), for proxies that choose by it.

    endpoint-load-metrics: JSON {"cpu_utilization":0.5,"application_utilization":0.01,"named_metrics":{"in_flight":12}}

Pure but for the machine's load average. `rest/infer.py` adds the header to an answer whose request asks for it, by
`endpoint-load-metrics-format: json` or `text`.
"""

from __future__ import annotations

import os

import msgspec

ASK_LOAD = b"endpoint-load-metrics-format"
LOAD = b"endpoint-load-metrics"


class Figures(msgspec.Struct, frozen=True):
    """`application_utilization`: requests under way, as a part of those that the model lets wait."""

    cpu_utilization: float
    application_utilization: float
    named_metrics: dict[str, float]


def load_report(wanted: bytes, in_flight: int, max_queue_size: int) -> bytes:
    """The header's value in the format that was asked for, "" for one that is not known."""
    figures = Figures(
        cpu_utilization=round(os.getloadavg()[0] / (os.cpu_count() or 1), 3),
        application_utilization=round(in_flight / max_queue_size, 4),
        named_metrics={"in_flight": in_flight},
    )
    match wanted.strip().lower():
        case b"json":
            return b"JSON " + msgspec.json.encode(figures)
        case b"text":
            named = [f"named_metrics.{name}={value}" for name, value in figures.named_metrics.items()]
            plain = [f"{name}={getattr(figures, name)}" for name in ("cpu_utilization", "application_utilization")]
            return f"TEXT {', '.join([*plain, *named])}".encode()
        case _:
            return b""
