"""Makes the inputs on which candidates are compared with the reference: random, legal, the same every time.

Knows nothing of models. `reference.py` runs the reference on them and stores both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compiler.datatypes import TORCH_TYPES
from compiler.spec import TensorSpec

# For a dimension that varies and has no example: enough for five halvings of an image, cheap for a text.
DEFAULT_SIZE = 32


def concrete_shape(spec: TensorSpec, batch: int, *, wider: bool = False) -> tuple[int, ...]:
    """The sizes of one golden input: `batch` rows (0: no batch dimension), every other open dimension by its example.

    `wider` adds one to each of those, so that a candidate that froze the example's size is found out.
    """
    example = spec.example_shape or (-1,) * len(spec.shape)
    sizes = []
    for axis, (size, sample) in enumerate(zip(spec.shape, example, strict=True)):
        if axis == 0 and batch:
            sizes.append(batch)
        elif size != -1:
            sizes.append(size)
        else:
            sizes.append((sample if sample > 0 else DEFAULT_SIZE) + (1 if wider else 0))
    return tuple(sizes)


def can_widen(specs: tuple[TensorSpec, ...], batches: bool) -> bool:
    """Whether any dimension besides the batch varies."""
    return any(-1 in spec.shape[1 if batches else 0 :] for spec in specs)


def random_inputs(specs: tuple[TensorSpec, ...], batch: int, seed: int, *, wider: bool = False) -> tuple[Tensor, ...]:
    """One tensor on the CPU for each spec, within `spec.range` where it has one."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(random_tensor(spec, concrete_shape(spec, batch, wider=wider), generator) for spec in specs)


def cycle_rows(rows: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    """`batch` rows of each tensor, beginning again where they run out; 0: the tensors as they are."""
    if not batch:
        return rows
    return tuple(tensor[torch.arange(batch) % len(tensor)] for tensor in rows)


def random_tensor(spec: TensorSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Legal values of `spec` in this shape, on the CPU."""
    dtype = TORCH_TYPES[spec.datatype]
    if spec.datatype == "BOOL":
        least = spec.range[0] if spec.range is not None else 0.0
        return torch.rand(shape, generator=generator) < (1.0 if least > 0 else 0.5)
    if dtype.is_floating_point:
        if spec.range is None:
            return torch.randn(shape, generator=generator).to(dtype)
        low, high = spec.range
        return (torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low).to(dtype)
    low, high = (int(bound) for bound in spec.range or _default_range(spec.datatype))
    return torch.randint(low, high + 1, shape, generator=generator, dtype=torch.int64).to(dtype)


def _default_range(datatype: str) -> tuple[int, int]:
    # Bytes are pixels. Any other integer may index a table of unknown length: 0 and 1 are legal in every one.
    return (0, 255) if datatype == "UINT8" else (0, 1)
