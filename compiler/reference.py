"""Runs the model as it was written: settles its interface, checks that rows are independent, stores golden cases.

Knows nothing of backends. `resolve.py` makes the decisions, `cases.py` keeps what is stored here, `judge.py` compares
candidates with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from compiler.accuracy import can_be_classified, measure_accuracy
from compiler.cases import store_case, store_samples_case
from compiler.datatypes import set_exact_float32
from compiler.errors import LoadFailed
from compiler.flat import Flat, name_outputs, pick_outputs
from compiler.golden import can_widen, cycle_rows, random_inputs
from compiler.jobs import Case, Describe, Described, Interface, Note
from compiler.load import explain, open_model
from compiler.padded import check_padding, golden_inputs, served_inputs
from compiler.padding import plan_cases
from compiler.quantize import detect_quantization
from compiler.quantize.calibration import has_calibration, read_calibration, read_samples
from compiler.quantize.sparsity import find_sparsity
from compiler.resolve import check_pad, resolve_inputs, resolve_outputs
from compiler.signature import read_outputs, read_program
from compiler.spec import TensorSpec, Tolerance
from compiler.verify import find_difference

# The names that the model gives, None where it gives none, and its outputs on the CPU.
Result = tuple[tuple[str, ...] | None, tuple[Tensor, ...]]

GOLDEN_SEED, PADDING_SEED = 20, 21
PADDING_SCALE = 3.0  # padding unlike the rows themselves, so that statistics over the batch would shift


class Reference:
    """An opened model on a device, run in float32; its failures are sentences for its owner."""

    def __init__(self, job: Describe) -> None:
        self.folder = Path(job.place.folder)
        self.device = job.place.device
        self.opened = open_model(self.folder, self.device, job.place.origin, job.place.factory)
        self.file = str(
            next(
                Path(job.place.origin) / name
                for name in ("model.pt2", "model.pt", "model.py", "model.safetensors")
                if (self.folder / name).is_file()
            )
        )
        self.flat = Flat(self.opened)

    def run(self, inputs: tuple[Tensor, ...]) -> Result:
        """What the model returns, on the CPU, with names where it has them. Raises LoadFailed or the model's error."""
        with torch.inference_mode():
            names, tensors = name_outputs(self.flat.call(*(tensor.to(self.device) for tensor in inputs)))
        return names, tuple(tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for tensor in tensors)

    def run_batch(self, interface: Interface, batch: int, *, wider: bool = False) -> Result:
        """As `run`, on the random input of that size; any failure is a LoadFailed that names the input."""
        return self.run_inputs(interface, golden_inputs(interface, batch, GOLDEN_SEED, wider=wider))

    def run_inputs(self, interface: Interface, inputs: tuple[Tensor, ...]) -> Result:
        """As `run`; any failure is a LoadFailed that names the input."""
        try:
            return self.run(inputs)
        except LoadFailed as error:
            raise LoadFailed(f"{self.file} {error}") from error
        except Exception as error:
            given = ", ".join(
                f"{spec.name} {spec.datatype}{list(tensor.shape)}"
                for spec, tensor in zip(interface.inputs, inputs, strict=True)
            )
            raise LoadFailed(f"{self.file} cannot run on {given}: {explain(error, self.folder)}") from error


def describe(job: Describe, tell: Callable[[Note], None]) -> Described:
    """Raises LoadFailed for everything that the model's owner has to mend."""
    set_exact_float32()
    tell(Note("load", "opening the model"))
    reference = Reference(job)
    program = reference.opened.program
    signature = read_program(program, reference.file) if program is not None else None
    interface = resolve_inputs(job.options, signature, reference.file)
    tell(Note("reference", "running the model as it is"))
    outputs = _observe(reference, interface)
    named = outputs[0]
    observed = _read_sizes(reference, interface, outputs)
    if signature is not None:
        observed = signature.outputs
    interface = msgspec.structs.replace(
        interface, outputs=resolve_outputs(job.options.outputs, observed, named is not None, reference.file)
    )
    check_pad(interface, interface.outputs, reference.file)
    quantization = detect_quantization(reference.opened)
    # Quantisers round: the last bit of a float decides between two of their steps.
    tolerance = job.options.tolerance("int8" if quantization else "fp32")
    _check_repeatable(reference, interface, tolerance)
    _check_rows(reference, interface, tolerance)
    if interface.pad is not None:
        check_padding(
            lambda inputs: _pick(reference.run_inputs(interface, inputs), interface),
            *(interface, interface.pad, tolerance, reference.file),
        )
    described = Described(
        interface,
        (),
        quantization=quantization,
        is_calibrated=has_calibration(reference.folder),
        sparsity=find_sparsity(reference.opened.module),
    )
    return _add_goldens(described, reference, Path(job.goldens), tell) if job.goldens else described


def _add_goldens(described: Described, reference: Reference, folder: Path, tell: Callable[[Note], None]) -> Described:
    """What candidates will be compared with: golden cases, and the labelled samples where there are any."""
    folder.mkdir(parents=True, exist_ok=True)
    interface = described.interface
    samples = read_samples(reference.folder, interface)
    rows = samples[0] if samples is not None else _calibration_rows(reference.folder, interface, described)
    described = msgspec.structs.replace(described, cases=_store_cases(reference, interface, rows, folder, tell))
    if samples is None:
        return described
    inputs, labels = samples
    if not interface.max_batch_size:
        raise LoadFailed(f"samples.safetensors beside {reference.file} needs a batch dimension, which this model lacks")
    tell(Note("reference", f"accuracy on {len(labels)} labelled samples"))
    first = _pick(reference.run_inputs(interface, cycle_rows(inputs, min(2, interface.max_batch_size))), interface)
    wrong = can_be_classified(first, labels)
    if wrong:
        raise LoadFailed(f"samples.safetensors beside {reference.file} cannot be used: {wrong}")
    accuracy = measure_accuracy(
        lambda batch: _pick(reference.run_inputs(interface, batch), interface), inputs, labels, interface, "cpu"
    )
    store_samples_case(folder / "samples.safetensors", inputs, labels)
    return msgspec.structs.replace(
        described,
        samples=str(folder / "samples.safetensors"),
        sample_count=len(labels),
        reference_accuracy=accuracy,
    )


def _calibration_rows(folder: Path, interface: Interface, described: Described) -> tuple[Tensor, ...] | None:
    """The first batch of the calibration data: rows of the kind that the model was made for."""
    if not described.is_calibrated:
        return None
    batches = read_calibration(folder, interface)
    return batches[0] if batches else None


def _observe(reference: Reference, interface: Interface) -> Result:
    """The outputs at the smallest size; a model that takes no second row is refused here, with the way out."""
    first = reference.run_batch(interface, min(1, interface.max_batch_size))
    if interface.max_batch_size <= 1:
        return first
    try:
        second = reference.run_batch(interface, 2)
    except LoadFailed as error:
        raise LoadFailed(
            f"{error}; it does run at batch 1: set max_batch_size: 1 if it takes one row at a time, or 0 if its first "
            "dimension is not a batch"
        ) from error
    for index, tensor in enumerate(second[1]):
        if tensor.dim() == 0 or tensor.shape[0] != 2:
            name = second[0][index] if second[0] else f"number {index}"
            raise LoadFailed(
                f"{reference.file} gives the output {name} with shape {list(tensor.shape)} at batch 2: its first "
                "dimension must be the batch; return one row for each row, or set max_batch_size: 0"
            )
    return second


def _read_sizes(reference: Reference, interface: Interface, seen: Result) -> tuple[TensorSpec, ...]:
    """Specs of the outputs with -1 where a size follows from the inputs' sizes."""
    specs = read_outputs(seen[1], seen[0], reference.file)
    wider = _run_wider(reference, interface)
    opened = []
    for index, spec in enumerate(specs):
        shape = list(spec.shape)
        if wider is not None:
            shape = [a if a == b else -1 for a, b in zip(shape, wider[index].shape, strict=True)]
        if interface.max_batch_size:
            shape[0] = -1
        opened.append(msgspec.structs.replace(spec, shape=tuple(shape)))
    return tuple(opened)


def _run_wider(reference: Reference, interface: Interface) -> tuple[Tensor, ...] | None:
    """The outputs with every open dimension besides the batch one larger; None where the model takes no such input."""
    if not can_widen(interface.inputs, interface.max_batch_size > 0):
        return None
    try:
        return reference.run_batch(interface, min(2, interface.max_batch_size), wider=True)[1]
    except LoadFailed:
        if interface.pad is not None:  # that large it will be served
            raise
        return None  # a model may well want multiples of eight


def _check_repeatable(reference: Reference, interface: Interface, tolerance: Tolerance) -> None:
    batch = min(2, interface.max_batch_size)
    outputs = [_pick(reference.run_batch(interface, batch), interface) for _ in range(2)]
    _, reason = find_difference(interface.outputs, outputs[1], outputs[0], tolerance)
    if reason:
        raise LoadFailed(
            f"{reference.file} answers the same input differently the second time ({reason}): it must not draw random "
            "numbers or keep a state between calls"
        )


def _check_rows(reference: Reference, interface: Interface, tolerance: Tolerance) -> None:
    """A batch is filled with rows of other requests and with padding: they must not change a row's answer."""
    if interface.max_batch_size < 2:
        return
    rows = min(3, interface.max_batch_size - 1)
    padded = next(bucket for bucket in interface.buckets if bucket > rows)
    inputs = random_inputs(interface.inputs, rows, GOLDEN_SEED)
    others = random_inputs(interface.inputs, padded - rows, PADDING_SEED)
    alone = _pick(reference.run(inputs), interface)
    for filling in (others, tuple(torch.zeros_like(tensor) for tensor in others)):
        full = tuple(
            torch.cat([mine, _exaggerate(other, spec)])
            for mine, other, spec in zip(inputs, filling, interface.inputs, strict=True)
        )
        together = tuple(tensor[:rows] for tensor in _pick(reference.run(full), interface))
        _, reason = find_difference(interface.outputs, together, alone, tolerance)
        if reason:
            difference = reason.replace("the reference", "the rows alone")
            raise LoadFailed(
                f"{reference.file} mixes the rows of a batch: {rows} rows give other answers when {padded - rows} more "
                f"are added ({difference}); set max_batch_size: 0 to serve it without batching, or 1 for one row at a "
                "time"
            )


def _exaggerate(tensor: Tensor, spec: TensorSpec) -> Tensor:
    return tensor * PADDING_SCALE if tensor.dtype.is_floating_point and spec.range is None else tensor


def _store_cases(
    reference: Reference,
    interface: Interface,
    rows: tuple[Tensor, ...] | None,
    folder: Path,
    tell: Callable[[Note], None],
) -> tuple[Case, ...]:
    """Golden inputs and answers at batch 1, 2, 3, each bucket, and once with every other open dimension one larger.

    They are made of the model's own `rows` where it has any, with one case of random values besides.
    """
    batches = sorted({*interface.buckets, *(size for size in (1, 2, 3) if size <= interface.max_batch_size)}) or [0]
    pad, cases = interface.pad, []
    for batch, sizes in plan_cases(pad, batches, interface.buckets):
        label = f"batch {batch}" if batch else "one call"
        if pad is not None:
            label += "".join(f", {name} {size}" for name, size in zip(pad.dims, sizes, strict=True))
            inputs = served_inputs(interface, pad, batch, sizes, GOLDEN_SEED)
        else:
            inputs = cycle_rows(rows, batch) if rows else random_inputs(interface.inputs, batch, GOLDEN_SEED)
        tell(Note("reference", f"golden answers at {label}"))
        path = str(folder / f"{'-'.join(map(str, (batch, *sizes)))}.safetensors")
        is_timed, is_foreign = batch in interface.buckets or not batch, pad is not None and rows is not None
        case = Case(label, batch, path, is_timed, is_foreign, sizes)
        store_case(case, inputs, _pick(reference.run_inputs(interface, inputs), interface))
        cases.append(case)
    batch = min(2, interface.max_batch_size)
    if rows and pad is not None:
        inputs = cycle_rows(rows, interface.max_batch_size)
        cases.append(Case("its own rows", interface.max_batch_size, str(folder / "own-rows.safetensors"), timed=False))
        store_case(cases[-1], inputs, _pick(reference.run_inputs(interface, inputs), interface))
    extra = [(True, "other sizes")] if _run_wider(reference, interface) is not None else []
    if rows:
        extra.append((False, "random values"))
    for wider, label in extra:
        inputs = golden_inputs(interface, batch, GOLDEN_SEED, wider=wider)
        path = str(folder / f"{label.replace(' ', '-')}.safetensors")
        case = Case(label, batch, path, timed=False, is_foreign=rows is not None)
        store_case(case, inputs, _pick(reference.run_inputs(interface, inputs), interface))
        cases.append(case)
    return tuple(cases)


def _pick(result: Result, interface: Interface) -> tuple[Tensor, ...]:
    names, tensors = result
    return pick_outputs(dict(zip(names, tensors, strict=True)) if names else tensors, _names(interface))


def _names(interface: Interface) -> tuple[str, ...]:
    return tuple(spec.name for spec in interface.outputs)
