"""Where the time of one request went, as a Server-Timing header or trailer, for whoever asks with one of that name.

    curl -H 'Server-Timing: 1' ...
    -> server-timing: queue;dur=0.412, stack;dur=0.010, copy_in;dur=0.031, compute;dur=1.902, copy_out;dur=0.012,
       total;dur=2.611, batch;desc="3", bucket;desc="4", backend;desc="torchscript int8 onednn"

A kept answer has no phases: `cache;desc="hit", total;dur=0.112, backend;desc="..."`.

Pure. Durations are milliseconds, as the W3C's Server Timing has them. `rest/infer.py` and `rpc/servicer.py` ask.
"""

from __future__ import annotations

from collections.abc import Sequence

ASK = b"server-timing"
NO = (b"0", b"off", b"false", b"no")
PHASES = ("queue", "stack", "copy_in", "compute", "copy_out")


def is_wanted(asked: bytes) -> bool:
    """Whether the request's header of this name asks for it, or says no."""
    return asked.strip().lower() not in NO


def server_timing(phases_ns: Sequence[int], total_s: float, batch: int, bucket: int, backend: str) -> bytes:
    """The header's value: the engine's phases, and `total_s` from the last byte of the request's head to the answer."""
    if not phases_ns:
        return f'cache;desc="hit", total;dur={total_s * 1e3:.3f}, backend;desc="{backend}"'.encode("latin-1", "replace")
    phases = [f"{name};dur={value / 1e6:.3f}" for name, value in zip(PHASES, phases_ns, strict=False)]
    what = [f'batch;desc="{batch}"', f'bucket;desc="{bucket}"', f'backend;desc="{backend}"']
    return ", ".join([*phases, f"total;dur={total_s * 1e3:.3f}", *what]).encode("latin-1", "replace")
