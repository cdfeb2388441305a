"""Loads each candidate from its saved files, compares it with the golden cases and times those that pass.

Knows nothing of how candidates were built, and does not choose. `verify.py` compares, `accuracy.py` counts right
answers, `race.py` times, `graphs.py` captures on a GPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from compiler.accuracy import measure_accuracy
from compiler.backends import load_candidate
from compiler.cases import read_case, read_samples_case
from compiler.errors import Inaccurate
from compiler.footprint import used_bytes
from compiler.jobs import Case, Entrant, Judge, Judged, Note, Verdict
from compiler.ladder import PRUNED
from compiler.manifest import PaddedTime
from compiler.race import race, warm_up
from compiler.spec import Tolerance
from compiler.verify import UNBOUNDED, find_difference, worst

if TYPE_CHECKING:
    from torch import Tensor

    from compiler.backends import Model
    from compiler.manifest import OutputError

Shape = tuple[int, tuple[int, ...]]  # of a call: the batch (1 without a batch dimension), and sizes of the padded

ROUNDED = ("fp16", "bf16", "fp8", "int8")


def judge(job: Judge, tell: Callable[[Note], None]) -> Judged:
    """One verdict for each candidate; a candidate that fails never fails the job."""
    verdicts: list[Verdict] = []
    passed: dict[str, Model] = {}
    for entrant in job.entrants:
        tell(Note("verify", "comparing with the reference", entrant.rung.name))
        verdict, model = _examine(entrant, job)
        verdicts.append(verdict)
        if model is not None:
            passed[entrant.rung.name] = model
    lanes, graphs = _lanes(passed, job, tell)
    tell(Note("race", "timing all candidates in turns"))
    times = race(lanes, job.place.device)
    return Judged(
        tuple(msgspec.structs.replace(one, graphs=graphs.get(one.name, ())) for one in verdicts),
        {name: mean_times(taken) for name, taken in times.items()},
        {name: _padded_times(taken) for name, taken in times.items()},
    )


def mean_times(times: Mapping[Shape, float]) -> dict[int, float]:
    """By batch size, the mean over the sizes that its inputs are padded to."""
    found: dict[int, list[float]] = {}
    for (batch, _), spent in times.items():
        found.setdefault(batch, []).append(spent)
    return {batch: statistics.fmean(spent) for batch, spent in found.items()}


def _padded_times(times: Mapping[Shape, float]) -> tuple[PaddedTime, ...]:
    return tuple(PaddedTime(batch, sizes, spent) for (batch, sizes), spent in times.items() if sizes)


def tolerance_of(entrant: Entrant, case: Case, job: Judge) -> Tolerance:
    """How far `entrant` may be from the reference on `case`.

    A model that was trained with quantisers rounds inside, in the reference too: there the last bit of a float decides
    between two steps, so every rung has what int8 is allowed. Where the model's own rows are there, values of another
    kind only show whether a rounded candidate breaks: it was not calibrated on them, and a classifier that is sure of
    nothing magnifies every rounding. A pruned model is another function by intent, as a quantised one is.
    """
    is_pruned = entrant.rung.variant.endswith(PRUNED)
    if case.is_foreign and (entrant.rung.precision in ROUNDED or is_pruned or job.quantization):
        return UNBOUNDED
    return job.options.tolerance("int8" if is_pruned or job.quantization else entrant.rung.precision)


def _examine(entrant: Entrant, job: Judge) -> tuple[Verdict, Model | None]:
    name, errors = entrant.rung.name, list[tuple["OutputError", ...]]()
    accuracy: float | None = None
    before = used_bytes(job.place.device)
    try:
        model = load_candidate(Path(entrant.folder), entrant.rung.backend, job.interface, job.place.device)
        for case in job.cases:
            _compare(model, case, entrant, job, errors)
        accuracy = _check_accuracy(model, job)
    except Inaccurate as error:
        return Verdict(name, worst(errors), "inaccurate", str(error), _measured(error)), None
    except Exception as error:  # noqa: BLE001 - whatever a candidate raises, only its own rung is lost
        reason = " ".join(str(error).split())[:300]
        return Verdict(name, worst(errors), "failed", f"{type(error).__name__}: {reason}"), None
    memory = max(0, used_bytes(job.place.device) - before)
    return Verdict(name, worst(errors), accuracy=accuracy, memory=memory), model


def _compare(model: Model, case: Case, entrant: Entrant, job: Judge, errors: list[tuple[OutputError, ...]]) -> None:
    """Raises Inaccurate, naming the case."""
    inputs, wanted = read_case(case)
    outputs = model(tuple(tensor.to(job.place.device) for tensor in inputs))
    tolerance = tolerance_of(entrant, case, job)
    found, reason = find_difference(job.interface.outputs, outputs, wanted, tolerance)
    if tolerance is not UNBOUNDED or reason:
        errors.append(found)
    if reason:
        raise Inaccurate(f"at {case.label}: {reason}")


class LessAccurate(Inaccurate):
    """Right within its tolerance on every case, yet wrong more often on the labelled samples."""

    def __init__(self, accuracy: float, reference: float, drop: float) -> None:
        super().__init__(
            f"top-1 accuracy on the labelled samples is {accuracy:.2%}, the reference's {reference:.2%}: "
            f"at most {drop:.2%} less is allowed (max_accuracy_drop)"
        )
        self.accuracy = accuracy


def _check_accuracy(model: Model, job: Judge) -> float | None:
    """The share of samples that are classified right; None without samples. Raises LessAccurate."""
    if not job.samples:
        return None
    inputs, labels = read_samples_case(job.samples)
    accuracy = measure_accuracy(model, inputs, labels, job.interface, job.place.device)
    reference = job.reference_accuracy
    assert reference is not None, "samples were run through the reference first"
    # The rows that the reference gets right count as whole rows: one row of 20 is 5 %, not a rounding error.
    if accuracy < reference - job.options.max_accuracy_drop - 1e-9:
        raise LessAccurate(accuracy, reference, job.options.max_accuracy_drop)
    return accuracy


def _measured(error: Inaccurate) -> float | None:
    return error.accuracy if isinstance(error, LessAccurate) else None


def _lanes(
    models: dict[str, Model], job: Judge, tell: Callable[[Note], None]
) -> tuple[dict[str, dict[Shape, Callable[[], object]]], dict[str, tuple[int, ...]]]:
    """What to call for each candidate and shape, and the batch sizes whose calls all replay a graph."""
    device = job.place.device
    inputs = {
        (max(case.batch, 1), case.sizes): tuple(tensor.to(device) for tensor in read_case(case)[0])
        for case in job.cases
        if case.timed
    }
    lanes: dict[str, dict[Shape, Callable[[], object]]] = {}
    graphs: dict[str, tuple[int, ...]] = {}
    for name, model in models.items():
        tell(Note("race", "warming up", name))
        lanes[name] = {shape: partial(model, tensors) for shape, tensors in inputs.items()}
        warm_up(lanes[name].values(), device)
        if device != "cpu":
            replays = _capture(model, inputs, device)
            lanes[name].update(replays)
            plain = {batch for batch, _ in inputs.keys() - replays.keys()}
            graphs[name] = tuple(sorted({batch for batch, _ in replays} - plain))
    return lanes, graphs


def _capture(model: Model, inputs: dict[Shape, tuple[Tensor, ...]], device: str) -> dict[Shape, Callable[[], object]]:
    """A replay for each shape whose CUDA graph gives what the plain call gives."""
    from compiler.graphs import Graphs

    graphs = Graphs(model, device)
    replays: dict[Shape, Callable[[], object]] = {}
    sizes = {shape: sum(tensor.nbytes for tensor in tensors) for shape, tensors in inputs.items()}
    for shape in sorted(inputs, key=sizes.__getitem__, reverse=True):  # smaller graphs reuse the memory of the largest
        if not graphs.capture(inputs[shape]):
            graph = graphs.find(tuple(tuple(tensor.shape) for tensor in inputs[shape]))
            assert graph is not None, "it was captured just now"
            replays[shape] = graph.replay
    return replays
