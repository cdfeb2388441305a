"""Settles what a model takes and gives from three accounts: its declaration, its program, and what running it shows.

Pure: no torch, no files. `signature.py` reads the program's account, `reference.py` the one of running it; where two
accounts contradict each other the error names both.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import msgspec

from compiler.errors import LoadFailed
from compiler.jobs import Interface
from compiler.padding import find_faults, with_examples
from compiler.spec import DEFAULT_MAX_BATCH_SIZE, ITEM_SIZES, Options, TensorSpec


class Signature(msgspec.Struct, frozen=True):
    """A program's own account. `why_no_batch` is empty where all inputs and outputs share their first dimension.

    `batch_limit` is the upper bound of that dimension, None where it has none.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    why_no_batch: str = ""
    batch_limit: int | None = None


def resolve_inputs(options: Options, signature: Signature | None, file: str) -> Interface:
    """The interface as far as it is known before the model runs: outputs stay as declared. Raises LoadFailed."""
    _check_names("input", options.inputs, file)
    _check_names("output", options.outputs, file)
    if signature is not None:
        inputs = tuple(merge(declared, spec, file) for declared, spec in _pair(options.inputs, signature.inputs, file))
    elif options.inputs:
        inputs = options.inputs
    else:
        raise LoadFailed(
            f"{file} does not say what it takes: declare its inputs (name, datatype, shape) in model.yaml, "
            "or export it to model.pt2, which does"
        )
    size = _max_batch_size(options, signature, inputs, file)
    interface = Interface(
        inputs=tuple(_complete_example(spec, size > 0, file) for spec in inputs),
        outputs=(),
        max_batch_size=size,
        buckets=resolve_buckets(options.buckets, size),
        pad=options.pad,
    )
    if options.pad is None:
        return interface
    check_pad(interface, None, file)
    return msgspec.structs.replace(interface, inputs=with_examples(options.pad, interface.inputs))


def check_pad(interface: Interface, outputs: tuple[TensorSpec, ...] | None, file: str) -> None:
    """Raises LoadFailed where what model.yaml pads does not fit the model. `outputs` None: not known yet."""
    if interface.pad is not None:
        found = find_faults(interface.pad, interface.inputs, outputs, interface.max_batch_size, interface.buckets)
        for keys, sentence in found:
            raise LoadFailed(f"{'.'.join(('batching', 'pad', *keys))} in model.yaml does not fit {file}: {sentence}")


def resolve_outputs(
    declared: tuple[TensorSpec, ...] | None, observed: tuple[TensorSpec, ...], named: bool, file: str
) -> tuple[TensorSpec, ...]:
    """The outputs: as observed, in the names of the declaration. `named`: the model itself names them."""
    if not declared:
        return observed
    if len(declared) != len(observed) and not named:
        raise LoadFailed(f"model.yaml declares {len(declared)} outputs, but {file} returns {len(observed)}")
    if not named:
        return tuple(merge(spec, seen, file) for spec, seen in zip(declared, observed, strict=True))
    by_name = {spec.name: spec for spec in observed}
    missing = [spec.name for spec in declared if spec.name not in by_name]
    if missing:
        raise LoadFailed(f"model.yaml declares the output '{missing[0]}', but {file} returns {', '.join(by_name)}")
    return tuple(merge(spec, by_name[spec.name], file) for spec in declared)


def resolve_buckets(buckets: tuple[int, ...] | None, max_batch_size: int) -> tuple[int, ...]:
    """The batch sizes to verify, time and serve: powers of two up to the largest, and the largest itself."""
    if max_batch_size == 0:
        if buckets:
            raise LoadFailed("buckets need a batch dimension: remove them, or set max_batch_size above 0")
        return ()
    if buckets is None:
        powers = [2**power for power in range(max_batch_size.bit_length()) if 2**power < max_batch_size]
        return (*powers, max_batch_size)
    if list(buckets) != sorted(set(buckets)) or buckets[0] < 1 or buckets[-1] != max_batch_size:
        raise LoadFailed(
            f"buckets {list(buckets)} must rise from at least 1 to max_batch_size, which is {max_batch_size}"
        )
    return buckets


def merge(declared: TensorSpec | None, actual: TensorSpec, file: str) -> TensorSpec:
    """`declared` and `actual` as one spec, in the words of the declaration. Raises LoadFailed naming both."""
    if declared is None:
        return actual
    what = f"'{declared.name}'"
    if declared.datatype != actual.datatype:
        raise LoadFailed(f"model.yaml declares {what} as {declared.datatype}, but in {file} it is {actual.datatype}")
    if len(declared.shape) != len(actual.shape):
        raise LoadFailed(
            f"model.yaml declares {what} with shape {list(declared.shape)}, but in {file} it has "
            f"{len(actual.shape)} dimensions, {list(actual.shape)} (a batch dimension counts)"
        )
    for said, real in zip(declared.shape, actual.shape, strict=True):
        if (said != real and -1 not in (said, real)) or (said == -1 and real != -1):
            raise LoadFailed(
                f"model.yaml declares {what} with shape {list(declared.shape)}, "
                f"but in {file} it is {list(actual.shape)}"
            )
    return TensorSpec(
        name=declared.name,
        datatype=declared.datatype,
        shape=declared.shape,
        range=declared.range,
        example_shape=declared.example_shape or actual.example_shape,
    )


def _max_batch_size(options: Options, signature: Signature | None, inputs: tuple[TensorSpec, ...], file: str) -> int:
    asked = options.max_batch_size
    if asked is None and options.buckets:
        asked = options.buckets[-1]
    if asked == 0:
        return 0
    why_not = _why_no_batch(signature, inputs)
    if why_not:
        if asked is None:
            return 0
        raise LoadFailed(f"model.yaml sets max_batch_size {asked}, but {why_not} in {file}: set max_batch_size: 0")
    limit = signature.batch_limit if signature is not None else None
    if asked is not None and limit is not None and asked > limit:
        raise LoadFailed(
            f"model.yaml sets max_batch_size {asked}, but {file} was exported for batches up to {limit}: "
            f"set at most {limit}, or export it for more"
        )
    return asked if asked is not None else min(limit or DEFAULT_MAX_BATCH_SIZE, DEFAULT_MAX_BATCH_SIZE)


def _why_no_batch(signature: Signature | None, inputs: tuple[TensorSpec, ...]) -> str:
    if signature is not None and signature.why_no_batch:
        return signature.why_no_batch
    fixed = next((spec for spec in inputs if not spec.shape or spec.shape[0] != -1), None)
    return f"the first dimension of input '{fixed.name}' is not -1: its shape is {list(fixed.shape)}" if fixed else ""


def _complete_example(spec: TensorSpec, batches: bool, file: str) -> TensorSpec:
    """`spec` with an example shape as long as its shape, where it has one."""
    example = spec.example_shape
    if example is None:
        return spec
    if batches and len(example) == len(spec.shape) - 1:
        example = (-1, *example)
    fits = len(example) == len(spec.shape) and all(
        size in (want, -1) or want == -1 for size, want in zip(example, spec.shape, strict=True)
    )
    if not fits:
        raise LoadFailed(
            f"example_shape {list(example)} of input '{spec.name}' does not fit its shape {list(spec.shape)} ({file})"
        )
    return msgspec.structs.replace(spec, example_shape=example)


def _pair(
    declared: tuple[TensorSpec, ...] | None, actual: tuple[TensorSpec, ...], file: str
) -> list[tuple[TensorSpec | None, TensorSpec]]:
    """Each input of the program with its declaration; the program's order counts."""
    if not declared:
        return [(None, spec) for spec in actual]
    by_name = {spec.name: spec for spec in declared}
    names = [spec.name for spec in actual]
    for name in by_name:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f": did you mean '{near[0]}'?" if near else ""
            raise LoadFailed(f"model.yaml declares the input '{name}', but {file} takes {', '.join(names)}{hint}")
    return [(by_name.get(spec.name), spec) for spec in actual]


def _check_names(what: str, specs: Sequence[TensorSpec] | None, file: str) -> None:
    seen = set()
    for spec in specs or ():
        if spec.name in seen:
            raise LoadFailed(f"model.yaml declares the {what} '{spec.name}' twice ({file})")
        seen.add(spec.name)
        if spec.datatype not in ITEM_SIZES:
            raise LoadFailed(
                f"model.yaml declares the {what} '{spec.name}' as {spec.datatype}: torch has {', '.join(ITEM_SIZES)}"
            )
