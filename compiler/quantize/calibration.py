"""Reads the rows that lie beside a model: to calibrate its quantisers on, to judge it by, to warm it up with.

    calibration.safetensors   one tensor for each input, by its name, rows first
    calibration.py            create_calibration() -> batches: a dict by input name, a tuple, or one tensor each
    samples.safetensors       as the first, and `label`: INT64 [rows], the right class of each row
    warm_up.safetensors       as the first

Knows nothing of quantisers. Everything is checked here, so that a mistake is a sentence and not a crash in a kernel.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compiler.datatypes import DATATYPES, TORCH_TYPES
from compiler.errors import LoadFailed
from compiler.jobs import Interface
from compiler.source import WARM_UP_NAME
from compiler.spec import TensorSpec

ROWS_NAME, CODE_NAME, SAMPLES_NAME = "calibration.safetensors", "calibration.py", "samples.safetensors"
LABEL = "label"
MAX_ROWS = 2048  # histograms have settled long before, and a loader may never end
CHUNK_ROWS = 32  # at once: the observers keep copies of what passes


def has_calibration(folder: Path) -> bool:
    """Whether calibration data lie beside the model in `folder`."""
    return (folder / ROWS_NAME).is_file() or (folder / CODE_NAME).is_file()


def read_calibration(folder: Path, interface: Interface) -> list[tuple[Tensor, ...]]:
    """Batches on the CPU, tensors in the order of the inputs, no more rows in one than the model serves.

    Raises LoadFailed, naming the file, the tensor and the remedy.
    """
    if (folder / ROWS_NAME).is_file():
        if (folder / CODE_NAME).is_file():
            raise LoadFailed(f"both {ROWS_NAME} and {CODE_NAME} lie beside the model: keep one of them")
        rows = _read_rows(folder / ROWS_NAME, interface.inputs, _has_batch(interface))
        return _split([rows], interface, ROWS_NAME, is_stacked=True)
    return _split(_run_code(folder / CODE_NAME, interface), interface, CODE_NAME, is_stacked=False)


def read_warm_up(folder: Path, interface: Interface) -> list[tuple[Tensor, ...]]:
    """Batches as those of `read_calibration`, to run before anybody is served; none where there is no file.

    Raises LoadFailed.
    """
    path = folder / WARM_UP_NAME
    if not path.is_file():
        return []
    rows = _read_rows(path, interface.inputs, _has_batch(interface))
    return _split([rows], interface, path.name, is_stacked=True)


def read_samples(folder: Path, interface: Interface) -> tuple[tuple[Tensor, ...], Tensor] | None:
    """All labelled rows, tensors in the order of the inputs, and their classes; None where there is no file.

    Raises LoadFailed.
    """
    path = folder / SAMPLES_NAME
    if not path.is_file():
        return None
    if any(spec.name == LABEL for spec in interface.inputs):
        raise LoadFailed(
            f"{path.name} needs the name '{LABEL}' for the classes, which an input of the model has: rename it"
        )
    label = _open(path).get(LABEL)
    if label is None:
        raise LoadFailed(f"{path.name} lacks the tensor '{LABEL}': INT64 [rows], the right class of each row")
    if label.dtype != torch.int64 or label.dim() != 1:
        raise LoadFailed(
            f"{path.name} has '{LABEL}' as {_describe(label)}: it must be INT64 [rows], one class for each row"
        )
    rows = _read_rows(path, interface.inputs, _has_batch(interface), besides=(LABEL,))
    for spec, tensor in zip(interface.inputs, rows, strict=True):
        if len(tensor) != len(label):
            raise LoadFailed(
                f"{path.name} has {len(tensor)} rows in '{spec.name}' but {len(label)} labels: give each row one"
            )
    return rows, label


def _has_batch(interface: Interface) -> bool:
    return interface.max_batch_size > 0


def _open(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LoadFailed(f"{path.name} cannot be read: {error}; write it with safetensors.torch.save_file") from error


def _read_rows(
    path: Path, specs: tuple[TensorSpec, ...], has_batch: bool, besides: tuple[str, ...] = ()
) -> tuple[Tensor, ...]:
    """The tensors of a file in the order of the inputs; the first dimension of each counts rows."""
    tensors = _open(path)
    rows = _pick({name: tensor for name, tensor in tensors.items() if name not in besides}, specs, path.name)
    for spec, tensor in zip(specs, rows, strict=True):
        shape = spec.shape if has_batch else (-1, *spec.shape)
        _check(spec, shape, tensor, path.name)
    return rows


def _run_code(path: Path, interface: Interface) -> Iterator[tuple[Tensor, ...]]:
    """What calibration.py gives, batch by batch, checked."""
    source = path.read_text()
    names: dict[str, Any] = {"__name__": "torchere_calibration", "__file__": str(path)}
    try:
        exec(compile(source, str(path), "exec"), names)
        create = names.get("create_calibration")
        if not callable(create):
            raise LoadFailed(f"{path.name} does not define create_calibration(): add it, and let it give batches")
        batches = create()
        if not isinstance(batches, Iterable):
            raise LoadFailed(
                f"{path.name} returns {type(batches).__name__} from create_calibration(): it must give batches, "
                "as a list, a generator or a DataLoader does"
            )
        for batch in batches:
            yield _read_batch(batch, interface, path.name)
    except LoadFailed:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f" (line {lines[-1]})" if lines else ""
        raise LoadFailed(f"{path.name} cannot be run: {type(error).__name__}: {error}{where}") from error


def _read_batch(batch: object, interface: Interface, file: str) -> tuple[Tensor, ...]:
    specs = interface.inputs
    match batch:
        case Tensor():
            given: tuple[Any, ...] = (batch,)
        case Mapping():
            given = _pick(batch, specs, file)
        case tuple() | list():
            given = tuple(batch)
        case _:
            raise LoadFailed(
                f"{file} gives a batch of type {type(batch).__name__}: give a dict of input names to tensors, a tuple "
                "of tensors, or one tensor"
            )
    if len(given) != len(specs):
        raise LoadFailed(
            f"{file} gives a batch of {len(given)} tensors, but the model has {len(specs)} inputs: "
            f"{', '.join(spec.name for spec in specs)} (labels are not wanted here)"
        )
    for spec, tensor in zip(specs, given, strict=True):
        if not isinstance(tensor, Tensor):
            raise LoadFailed(f"{file} gives '{spec.name}' as {type(tensor).__name__}: make it a torch.Tensor")
        _check(spec, spec.shape, tensor, file)
    return tuple(tensor.detach().cpu() for tensor in given)


def _pick(tensors: Mapping[str, Any], specs: tuple[TensorSpec, ...], file: str) -> tuple[Any, ...]:
    names = [spec.name for spec in specs]
    missing = [name for name in names if name not in tensors]
    extra = sorted(str(name) for name in tensors if name not in names)
    if missing or extra:
        lacks = f"lacks '{missing[0]}'" if missing else ""
        has = f"has '{extra[0]}', which is no input" if extra else ""
        raise LoadFailed(
            f"{file} {' and '.join(filter(None, (lacks, has)))}: it must hold one tensor for each input of the model, "
            f"by name: {', '.join(names)}"
        )
    return tuple(tensors[name] for name in names)


def _check(spec: TensorSpec, shape: tuple[int, ...], tensor: Tensor, file: str) -> None:
    """Raises LoadFailed where `tensor` could not be served as this input."""
    fits = tensor.dim() == len(shape) and all(
        want in (-1, size) for want, size in zip(shape, tensor.shape, strict=True)
    )
    if tensor.dtype != TORCH_TYPES[spec.datatype] or not fits:
        raise LoadFailed(
            f"{file} has '{spec.name}' as {_describe(tensor)}, but the model takes {spec.datatype}{list(shape)}, where "
            "-1 stands for any size: prepare the rows exactly as clients send them"
        )
    if tensor.numel() == 0:
        raise LoadFailed(f"{file} has no rows in '{spec.name}': a hundred or more are needed")
    if tensor.dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
        raise LoadFailed(f"{file} has NaN or infinity in '{spec.name}': take those rows out")


def _split(
    batches: Iterable[tuple[Tensor, ...]], interface: Interface, file: str, *, is_stacked: bool
) -> list[tuple[Tensor, ...]]:
    """Batches that the model can take. Without a batch dimension a stacked row is a whole call, and so is a batch."""
    pieces: Iterator[tuple[Tensor, ...]]
    if _has_batch(interface):
        size = min(interface.max_batch_size, CHUNK_ROWS)
        pieces = itertools.chain.from_iterable(_chunks(batch, size, file) for batch in batches)
    elif is_stacked:
        pieces = itertools.chain.from_iterable(
            (tuple(tensor[0] for tensor in chunk) for chunk in _chunks(batch, 1, file)) for batch in batches
        )
    else:
        pieces = iter(batches)
    taken, rows = [], 0
    for piece in pieces:
        taken.append(piece)
        rows += len(piece[0]) if _has_batch(interface) else 1
        if rows >= MAX_ROWS:
            break
    if not taken:
        raise LoadFailed(f"{file} gives no batch: a hundred rows or more are needed")
    return taken


def _chunks(batch: tuple[Tensor, ...], size: int, file: str) -> Iterator[tuple[Tensor, ...]]:
    counts = {len(tensor) for tensor in batch}
    if len(counts) != 1:
        raise LoadFailed(
            f"{file} has inputs of {' and '.join(map(str, sorted(counts)))} rows: give all of them the same number"
        )
    return zip(*(torch.split(tensor, size) for tensor in batch), strict=True)


def _describe(tensor: Tensor) -> str:
    return f"{DATATYPES.get(tensor.dtype, str(tensor.dtype))}{list(tensor.shape)}"
