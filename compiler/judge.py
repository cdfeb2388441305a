"""Loads each candidate from its saved files, compares it with the golden cases and times those that pass.

Knows nothing of how candidates were built, and does not choose. `verify.py` compares, `race.py` times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.backends import load_candidate
from compiler.errors import Inaccurate
from compiler.jobs import Case, Judge, Judged, Note, Verdict
from compiler.race import race, warm_up
from compiler.reference import read_case
from compiler.verify import find_difference, worst

if TYPE_CHECKING:
    from compiler.backends import Model
    from compiler.manifest import OutputError


def judge(job: Judge, tell: Callable[[Note], None]) -> Judged:
    """One verdict for each candidate; a candidate that fails never fails the job."""
    verdicts, passed = [], {}
    for backend, folder in job.folders.items():
        tell(Note("verify", "comparing with the reference", backend))
        errors: list[tuple[OutputError, ...]] = []
        try:
            model = load_candidate(Path(folder), backend, job.interface, job.place.device)
            for case in job.cases:
                _compare(model, case, job, errors)
        except Inaccurate as error:
            verdicts.append(Verdict(backend, worst(errors), "inaccurate", str(error)))
        except Exception as error:  # noqa: BLE001 - whatever a candidate raises, only its own rung is lost
            reason = " ".join(str(error).split())[:300]
            verdicts.append(Verdict(backend, worst(errors), "failed", f"{type(error).__name__}: {reason}"))
        else:
            verdicts.append(Verdict(backend, worst(errors)))
            passed[backend] = model
    milliseconds = _time(passed, job, tell)
    return Judged(tuple(verdicts), milliseconds)


def _compare(model: Model, case: Case, job: Judge, errors: list[tuple[OutputError, ...]]) -> None:
    """Raises Inaccurate, naming the case."""
    inputs, wanted = read_case(case)
    outputs = model(tuple(tensor.to(job.place.device) for tensor in inputs))
    found, reason = find_difference(job.interface.outputs, outputs, wanted, job.options.tolerance)
    errors.append(found)
    if reason:
        raise Inaccurate(f"at {case.label}: {reason}")


def _time(models: dict[str, Model], job: Judge, tell: Callable[[Note], None]) -> dict[str, dict[int, float]]:
    """Milliseconds of one call by candidate and batch size, 1 for a model without a batch dimension."""
    device = job.place.device
    inputs = {
        max(case.batch, 1): tuple(tensor.to(device) for tensor in read_case(case)[0])
        for case in job.cases
        if case.timed
    }
    lanes = {}
    for name, model in models.items():
        tell(Note("race", "warming up", name))
        lanes[name] = {batch: partial(model, tensors) for batch, tensors in inputs.items()}
        warm_up(lanes[name].values(), device)
    tell(Note("race", "timing all candidates in turns"))
    return race(lanes, device)
