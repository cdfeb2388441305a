"""The classification extension: the k largest values of an output as `value:index:label` strings.

Pure. `plane.py` applies it where a request asks for it (Open Inference Protocol v2, classification extension).
"""

from __future__ import annotations

import numpy as np

from service.errors import InvalidInput
from service.repository.catalog import Entry
from service.tensors import RequestedOutput, Tensor, pack_bytes, shape_text, to_numpy

MAX_CLASSES = 1_000_000  # the bound that Triton sets on its answer


def classify(tensor: Tensor, count: int, labels: tuple[str, ...], batched: bool) -> Tensor:
    """The `count` largest values of each row, largest first, as BYTES of shape [count], or [batch,count]."""
    values = to_numpy(tensor)
    if values.dtype.kind not in "fiub" or values.ndim == 0:
        raise InvalidInput(f"output '{tensor.name}' {tensor.datatype} {shape_text(tensor.shape)} cannot be classified")
    rows = values.reshape(values.shape[0], -1) if batched else values.reshape(1, -1)
    count = min(count, rows.shape[1])
    if count * len(rows) > MAX_CLASSES:
        raise InvalidInput(
            f"output '{tensor.name}': classification of {count} values for {len(rows)} rows is too large"
        )
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    strings = [
        _string(row[index], int(index), labels) for row, picked in zip(rows, order, strict=True) for index in picked
    ]
    shape = (len(rows), count) if batched else (count,)
    return Tensor(tensor.name, "BYTES", shape, pack_bytes(strings))


def _string(value: object, index: int, labels: tuple[str, ...]) -> bytes:
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{float(value):f}:{index}{label}".encode()  # type: ignore[arg-type]


def choose_outputs(
    outputs: tuple[Tensor, ...], wanted: tuple[RequestedOutput, ...], entry: Entry
) -> tuple[Tensor, ...]:
    """The outputs that were asked for, in that order, as classes where that was asked."""
    produced = {tensor.name: tensor for tensor in outputs}
    return tuple(
        classify(
            produced[output.name],
            output.classification,
            entry.labels.get(output.name, ()),
            bool(entry.max_batch_size),
        )
        if output.classification
        else produced[output.name]
        for output in wanted
    )
