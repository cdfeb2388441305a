"""What a manifest says, in answers to the questions people ask: what is served, how much faster, how exact.

Pure. `tables.py` prints the answers and `page.py` draws them.
"""

from __future__ import annotations

import msgspec

from compiler.manifest import Candidate, Manifest, OutputError
from compiler.spec import TOLERANCES, Tolerance
from service.report.figures import percent_text, times_text


def timed_batches(manifest: Manifest) -> tuple[int, ...]:
    """The batch sizes that any rung was timed at."""
    return tuple(sorted({batch for rung in manifest.ladder for batch in rung.milliseconds}))


def batch_text(batch: int) -> str:
    """`batch 8`; a model without a batch dimension is timed by the call."""
    return f"batch {batch}" if batch else "one call"


def find_eager(manifest: Manifest) -> Candidate | None:
    """The reference among the rungs, where it was timed."""
    for rung in manifest.ladder:
        if rung.rung.name == "eager fp32" and rung.milliseconds:
            return rung
    return None


def find_speedups(manifest: Manifest) -> dict[int, float]:
    """How many times faster than eager the chosen rung is, by batch size; {} where eager was not timed."""
    eager, times = find_eager(manifest), manifest.milliseconds
    if eager is None:
        return {}
    return {batch: eager.milliseconds[batch] / ms for batch, ms in times.items() if batch in eager.milliseconds and ms}


def rows_per_second(batch: int, milliseconds: float) -> float:
    """What one instance computes in a second at this batch size."""
    return 1000 * max(batch, 1) / milliseconds


def worst_error(rung: Candidate) -> OutputError | None:
    """The output that is farthest from the reference."""
    return max(rung.errors, key=lambda error: error.relative_l2, default=None)


def find_tolerance(manifest: Manifest, precision: str) -> Tolerance:
    """What the model was allowed to differ by at a precision: its own limit, else the default."""
    own = manifest.key_parts.get("options.tolerances", "{}")
    try:
        tolerances = msgspec.json.decode(own, type=dict[str, Tolerance])
    except msgspec.DecodeError:
        tolerances = {}
    return tolerances.get(precision) or TOLERANCES.get(precision) or Tolerance()


def describe_gain(manifest: Manifest) -> str:
    """`2.1x to 3.4x faster than eager`, or what else is to be said of the choice."""
    chosen, gains = manifest.chosen, find_speedups(manifest)
    if manifest.is_fallback and chosen.backend == "eager":
        return "the model as it is: nothing that was asked for passed"
    if chosen.rung.name == "eager fp32":
        return "the model as it is: nothing that was tried is faster and right"
    if not gains:
        return ""
    low, high = times_text(min(gains.values())), times_text(max(gains.values()))
    return f"{low} as fast as eager" if low == high else f"{low} to {high} as fast as eager"


def describe_accuracy(manifest: Manifest) -> str:
    """`top-1 98.6 % before, 98.4 % after, on 360 samples`; "" where there were no samples."""
    before, after = manifest.reference_accuracy, manifest.chosen.accuracy
    if before is None:
        return ""
    now = percent_text(after) if after is not None else "not measured"
    return f"top-1 {percent_text(before)} before, {now} after, on {manifest.samples} samples"
