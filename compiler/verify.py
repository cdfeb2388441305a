"""Compares what a candidate computes with what the float32 eager reference computed.

Pure: takes tensors and a tolerance, returns errors and a sentence. `judge.py` runs the candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.datatypes import DATATYPES
from compiler.manifest import OutputError
from compiler.spec import TensorSpec, Tolerance

UNBOUNDED = Tolerance(float("inf"), float("inf"))  # any finite answer of the right shape


def find_difference(
    specs: tuple[TensorSpec, ...], outputs: tuple[Tensor, ...], reference: tuple[Tensor, ...], tolerance: Tolerance
) -> tuple[tuple[OutputError, ...], str]:
    """The error of each output, and why they are not the reference's ("" where they are).

    The order of the checks: number, shape, datatype, values that are not finite, closeness.
    """
    if len(outputs) != len(reference):
        return (), f"it returns {len(outputs)} outputs, the reference {len(reference)}"
    errors: list[OutputError] = []
    for spec, output, wanted in zip(specs, outputs, reference, strict=True):
        reason = _find_mismatch(spec.name, output, wanted)
        if reason:
            return tuple(errors), reason
        errors.append(measure_error(spec.name, output, wanted))
    for error in errors:
        if not within(error, tolerance):
            return tuple(errors), _describe(error, tolerance)
    return tuple(errors), ""


def measure_error(name: str, output: Tensor, reference: Tensor) -> OutputError:
    """Relative L2 and largest difference of two tensors of equal shape, where the reference is finite."""
    wanted, got = reference.detach().cpu().double().flatten(), output.detach().cpu().double().flatten()
    finite = torch.isfinite(wanted)
    wanted, difference = wanted[finite], (got - reference.detach().cpu().double().flatten())[finite]
    if wanted.numel() == 0:
        return OutputError(name, 0.0, 0.0)
    # A reference of nothing but zeros leaves only the absolute difference.
    norm, largest = wanted.norm().item() or 1.0, wanted.abs().max().item() or 1.0
    return OutputError(name, difference.norm().item() / norm, difference.abs().max().item() / largest)


def within(error: OutputError, tolerance: Tolerance) -> bool:
    """False for NaN as well."""
    return error.relative_l2 <= tolerance.relative_l2 and error.max_abs <= tolerance.max_abs


def worst(errors: list[tuple[OutputError, ...]]) -> tuple[OutputError, ...]:
    """For each output the largest of its errors over all cases."""
    by_name: dict[str, list[OutputError]] = {}
    for case in errors:
        for error in case:
            by_name.setdefault(error.name, []).append(error)
    return tuple(
        OutputError(name, max(one.relative_l2 for one in many), max(one.max_abs for one in many))
        for name, many in by_name.items()
    )


def _find_mismatch(name: str, output: Tensor, reference: Tensor) -> str:
    if output.shape != reference.shape:
        return f"output '{name}' has shape {list(output.shape)}, in the reference {list(reference.shape)}"
    if output.dtype != reference.dtype:
        mine, theirs = (DATATYPES.get(dtype, str(dtype)) for dtype in (output.dtype, reference.dtype))
        return f"output '{name}' is {mine}, in the reference {theirs}"
    if not output.dtype.is_floating_point:
        return ""
    got, wanted = output.detach().cpu(), reference.detach().cpu()
    lost = torch.isfinite(wanted) & ~torch.isfinite(got)
    if lost.any():
        kind = "NaN" if got[lost].isnan().any() else "infinity"
        return (
            f"output '{name}' has {kind} at {int(lost.sum())} of {lost.numel()} elements where the reference is finite"
        )
    gained = ~torch.isfinite(wanted) & torch.isfinite(got)
    if gained.any():
        return f"output '{name}' is finite at {int(gained.sum())} elements where the reference is not"
    return ""


def _describe(error: OutputError, tolerance: Tolerance) -> str:
    return (
        f"output '{error.name}' differs from the reference by {error.relative_l2:.2g} (relative L2, "
        f"{tolerance.relative_l2:g} allowed) and at most {error.max_abs:.2g} ({tolerance.max_abs:g} allowed)"
    )
