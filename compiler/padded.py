"""Tensors of padded sizes: pads inputs, cuts outputs, and finds a model whose answers depend on the padding.

Knows nothing of files or builders. `padding.py` says at which sizes, `reference.py` calls it with the model to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from compiler.errors import LoadFailed
from compiler.golden import random_inputs
from compiler.jobs import Interface
from compiler.padding import pairs, resize
from compiler.spec import Padding, Tolerance
from compiler.verify import find_difference

SEED = 22

Run = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


def served_inputs(
    interface: Interface, pad: Padding, batch: int, sizes: Sequence[int], seed: int
) -> tuple[Tensor, ...]:
    """A batch as it is served at these sizes: the first row fills them, the others are padded, each otherwise."""
    specs = resize(pad, interface.inputs, dict(zip(pad.dims, sizes, strict=True)))
    inputs = random_inputs(specs, batch, seed)
    for row in range(1, batch):
        own = {name: size - row * (size // 3 + 1) % size for name, size in zip(pad.dims, sizes, strict=True)}
        for spec, tensor in zip(specs, inputs, strict=True):
            for axis, dimension in pad.inputs.get(spec.name, {}).items():
                rest = tensor.shape[axis] - own[dimension]
                tensor[row].narrow(axis - 1, own[dimension], rest).fill_(pad.values.get(spec.name, 0))
    return inputs


def golden_inputs(interface: Interface, batch: int, seed: int, *, wider: bool = False) -> tuple[Tensor, ...]:
    """Random values of the example's sizes. `wider`: open sizes are one larger; with padding, the largest."""
    pad = interface.pad
    if pad is None or not wider:
        return random_inputs(interface.inputs, batch, seed, wider=wider)
    return random_inputs(resize(pad, interface.inputs, {name: s[-1] for name, s in pad.dims.items()}), batch, seed)


def pad_inputs(
    interface: Interface, pad: Padding, inputs: Sequence[Tensor], sizes: Mapping[str, int]
) -> tuple[Tensor, ...]:
    """`inputs` in tensors of these sizes; masks are 0 in the padding."""
    found = []
    for spec, tensor in zip(interface.inputs, inputs, strict=True):
        axes = pad.inputs.get(spec.name, {})
        shape = [sizes[axes[axis]] if axis in axes else size for axis, size in enumerate(tensor.shape)]
        whole = torch.full(shape, pad.values.get(spec.name, 0), dtype=tensor.dtype)
        whole[tuple(slice(0, size) for size in tensor.shape)] = tensor
        found.append(whole)
    return tuple(found)


def cut_outputs(
    interface: Interface, pad: Padding, outputs: Sequence[Tensor], sizes: Mapping[str, int]
) -> tuple[Tensor, ...]:
    """`outputs` with their first `sizes` of the axes that follow a dimension."""
    found = []
    for spec, tensor in zip(interface.outputs, outputs, strict=True):
        for axis, dimension in pad.outputs.get(spec.name, {}).items():
            tensor = tensor.narrow(axis, 0, min(sizes[dimension], tensor.shape[axis]))
        found.append(tensor)
    return tuple(found)


def check_padding(run: Run, interface: Interface, pad: Padding, tolerance: Tolerance, file: str) -> None:
    """Raises LoadFailed where a row gives another answer when it is padded, or outputs have not the sizes they should.

    A size at which the model cannot run by itself is passed over, unless it is one that is served.
    """
    batch = min(2, interface.max_batch_size)
    for own, larger in pairs(pad):
        inputs = random_inputs(resize(pad, interface.inputs, own), batch, SEED)
        try:
            alone = run(inputs)
        except LoadFailed:
            if all(size in pad.dims[name] for name, size in own.items()):
                raise
            continue
        padded = run(pad_inputs(interface, pad, inputs, larger))
        how = ", ".join(f"{name} {size} to {larger[name]}" for name, size in own.items() if size != larger[name])
        _check_sizes(interface, pad, padded, larger, file)
        if pad.check:
            _check_answers(interface, pad, alone, cut_outputs(interface, pad, padded, own), tolerance, (file, how))


def _check_sizes(
    interface: Interface, pad: Padding, outputs: Sequence[Tensor], sizes: Mapping[str, int], file: str
) -> None:
    for spec, tensor in zip(interface.outputs, outputs, strict=True):
        for axis, dimension in pad.outputs.get(spec.name, {}).items():
            if tensor.shape[axis] != sizes[dimension]:
                raise LoadFailed(
                    f"{file} gives the output '{spec.name}' with shape {list(tensor.shape)} where {dimension} is "
                    f"{sizes[dimension]}: axis {axis} does not have that size, so remove it from batching.pad.outputs"
                )


def _check_answers(
    interface: Interface,
    pad: Padding,
    alone: tuple[Tensor, ...],
    padded: tuple[Tensor, ...],
    tolerance: Tolerance,
    where: tuple[str, str],
) -> None:
    file, how = where
    for spec, one, other in zip(interface.outputs, alone, padded, strict=True):
        if one.shape != other.shape:
            raise LoadFailed(
                f"{file} gives the output '{spec.name}' with shape {list(one.shape)}, and {list(other.shape)} when its "
                f"input is padded ({how}): name its axis in batching.pad.outputs, so that each request gets its part"
            )
    _, reason = find_difference(interface.outputs, padded, alone, tolerance)
    if reason:
        masks = " and ".join(f"'{name}'" for name in pad.masks)
        remedy = (
            f"let it leave out what its mask {masks} excludes"
            if masks
            else "let it take an input that says what is padding, and name that in batching.pad.mask"
        )
        raise LoadFailed(
            f"{file} gives other answers when its input is padded ({how}): "
            f"{reason.replace('the reference', 'the answer without padding')}; {remedy}, or serve it as it is with "
            "batching.pad.check: false"
        )
