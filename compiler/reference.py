"""Runs the model as it was written: settles its interface, checks that rows are independent, stores golden cases.

Knows nothing of backends. `resolve.py` makes the decisions; `judge.py` compares candidates with what is stored here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compiler.datatypes import set_exact_float32
from compiler.errors import LoadFailed
from compiler.flat import Flat, name_outputs, pick_outputs
from compiler.golden import can_widen, random_inputs
from compiler.jobs import Case, Describe, Described, Interface, Note
from compiler.load import explain, open_model
from compiler.resolve import resolve_inputs, resolve_outputs
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
        self.opened = open_model(self.folder, self.device, job.place.origin)
        self.file = str(
            next(
                Path(job.place.origin) / name
                for name in ("model.pt2", "model.pt", "model.py")
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
        """As `run`, on the golden input of that size; any failure is a LoadFailed that names the input."""
        inputs = random_inputs(interface.inputs, batch, GOLDEN_SEED, wider=wider)
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
    _check_repeatable(reference, interface, job.options.tolerance)
    _check_rows(reference, interface, job.options.tolerance)
    return Described(interface, _store_cases(reference, interface, Path(job.goldens), tell))


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
    except LoadFailed:  # a model may well want multiples of eight
        return None


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
    reference: Reference, interface: Interface, folder: Path, tell: Callable[[Note], None]
) -> tuple[Case, ...]:
    """Golden inputs and answers at batch 1, 2, 3, each bucket, and once with every other open dimension one larger."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = sorted({*interface.buckets, *(size for size in (1, 2, 3) if size <= interface.max_batch_size)}) or [0]
    cases = []
    for batch in sizes:
        tell(Note("reference", f"golden answers at batch {batch}" if batch else "golden answers"))
        outputs = _pick(reference.run_batch(interface, batch), interface)
        case = Case(
            f"batch {batch}" if batch else "one call",
            batch,
            str(folder / f"{batch}.safetensors"),
            batch in interface.buckets or not batch,
        )
        _store(case, random_inputs(interface.inputs, batch, GOLDEN_SEED), outputs)
        cases.append(case)
    wider = _run_wider(reference, interface)
    if wider is not None:
        batch = min(2, interface.max_batch_size)
        case = Case("other sizes", batch, str(folder / "wider.safetensors"), timed=False)
        _store(
            case,
            random_inputs(interface.inputs, batch, GOLDEN_SEED, wider=True),
            _pick(reference.run_batch(interface, batch, wider=True), interface),
        )
        cases.append(case)
    return tuple(cases)


def _store(case: Case, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    tensors = {f"in.{index}": tensor.contiguous() for index, tensor in enumerate(inputs)}
    tensors |= {f"out.{index}": tensor.clone().contiguous() for index, tensor in enumerate(outputs)}
    save_file(tensors, case.path)


def read_case(case: Case) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and the reference's outputs of a case, on the CPU."""
    tensors = load_file(case.path)
    ordered = sorted(tensors, key=lambda name: int(name.partition(".")[2]))
    inputs = tuple(tensors[name] for name in ordered if name.startswith("in."))
    return inputs, tuple(tensors[name] for name in ordered if name.startswith("out."))


def _pick(result: Result, interface: Interface) -> tuple[Tensor, ...]:
    names, tensors = result
    return pick_outputs(dict(zip(names, tensors, strict=True)) if names else tensors, _names(interface))


def _names(interface: Interface) -> tuple[str, ...]:
    return tuple(spec.name for spec in interface.outputs)
