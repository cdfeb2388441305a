"""What a request carries: tensors that fit a model's inputs, random or from a file.

Pure but for reading the file. `payloads.py` turns them into bytes on the wire.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.bench.errors import BenchError
from service.tensors import NUMPY_TYPES, Tensor, elements, float32_to_bf16, pack_bytes, shape_text

Shape = tuple[int, ...]
BYTES_VALUE = b"torchere"


@dataclass(frozen=True, slots=True)
class Spec:
    """An input as the server's metadata has it; -1 for what may vary."""

    name: str
    datatype: str
    shape: Shape

    @property
    def batches(self) -> bool:
        return bool(self.shape) and self.shape[0] == -1


def read_specs(metadata: Mapping[str, Any]) -> tuple[Spec, ...]:
    """The inputs that the metadata of a model names. Raises BenchError where it names none."""
    specs = tuple(
        Spec(item["name"], item["datatype"], tuple(int(size) for size in item["shape"]))
        for item in metadata.get("inputs", ())
    )
    if not specs:
        raise BenchError(f"the server does not say what model '{metadata.get('name')}' takes: give --input FILE")
    return specs


def parse_shape(text: str) -> tuple[str, Shape]:
    """`image:1,3,224,224`. Raises ValueError with a sentence."""
    name, _, sizes = text.rpartition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 0:
        raise ValueError(f"'{text}' is no shape: write NAME:1,3,224,224")
    return name, shape


def resolve_shape(spec: Spec, batch: int, given: Mapping[str, Shape]) -> Shape:
    """The shape to send: `given` by name where there, else `batch` rows. Raises BenchError where it stays open."""
    if wanted := given.get(spec.name):
        if len(wanted) != len(spec.shape) or any(
            size not in (-1, own) for size, own in zip(spec.shape, wanted, strict=True)
        ):
            raise BenchError(f"--shape {spec.name}: {shape_text(wanted)} is no case of {shape_text(spec.shape)}")
        return wanted
    if batch > 1 and not spec.batches:
        raise BenchError(f"input '{spec.name}' {shape_text(spec.shape)} has no batch dimension: leave --batch at 1")
    shape = (batch, *spec.shape[1:]) if spec.batches else spec.shape
    if -1 in shape:
        example = ",".join(str(size if size != -1 else "N") for size in shape)
        raise BenchError(f"input '{spec.name}' {shape_text(spec.shape)} is open: give --shape {spec.name}:{example}")
    return shape


def random_tensors(specs: Sequence[Spec], batch: int, given: Mapping[str, Shape], seed: int) -> tuple[Tensor, ...]:
    """Values that any model can take: floats in [0, 1), UINT8 of the whole range, other whole numbers 0 or 1."""
    unknown = set(given) - {spec.name for spec in specs}
    if unknown:
        known = ", ".join(spec.name for spec in specs)
        raise BenchError(f"--shape names '{min(unknown)}', which is no input of the model: it has {known}")
    draw = np.random.default_rng(seed)
    return tuple(_random(spec, resolve_shape(spec, batch, given), draw) for spec in specs)


def read_tensors(file: Path, specs: Sequence[Spec]) -> tuple[Tensor, ...]:
    """The tensors of a file: .safetensors by input name, or JSON as a v2 request or as {"inputs": {NAME: VALUES}}."""
    try:
        values = _read_safetensors(file) if file.suffix == ".safetensors" else _read_json(file)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BenchError(f"{file} holds no inputs: {error}") from error
    if not specs:
        return tuple(_tensor(Spec(name, datatype, ()), value) for name, (datatype, value) in values.items())
    missing = [spec.name for spec in specs if spec.name not in values]
    if missing:
        raise BenchError(f"{file} has no value for input '{missing[0]}': it has {', '.join(values) or 'none'}")
    return tuple(_tensor(spec, values[spec.name][1]) for spec in specs)


def rows(tensors: Sequence[Tensor], specs: Sequence[Spec]) -> int:
    """How many rows of a batching model a request carries; 1 for a model that does not batch."""
    batching = {spec.name for spec in specs if spec.batches}
    return next((tensor.shape[0] for tensor in tensors if tensor.name in batching), 1)


def _random(spec: Spec, shape: Shape, draw: np.random.Generator) -> Tensor:
    match spec.datatype:
        case "BYTES":
            return Tensor(spec.name, "BYTES", shape, pack_bytes([BYTES_VALUE] * elements(shape)))
        case "FP16" | "FP32" | "FP64" | "BF16":
            return _tensor(spec, draw.random(shape, np.float32))
        case "UINT8":
            return _tensor(spec, draw.integers(0, 256, shape))
        case _:
            return _tensor(spec, draw.integers(0, 2, shape))


def _tensor(spec: Spec, value: Any) -> Tensor:
    if spec.datatype == "BYTES":
        array = np.asarray(value, dtype=object)
        packed = pack_bytes([each.encode() if isinstance(each, str) else bytes(each) for each in array.reshape(-1)])
        return Tensor(spec.name, "BYTES", array.shape, packed)
    if spec.datatype == "BF16":
        array = np.asarray(value, np.float32)
        return Tensor(spec.name, "BF16", array.shape, float32_to_bf16(array))
    if spec.datatype not in NUMPY_TYPES:
        raise BenchError(f"input '{spec.name}' has the unknown datatype {spec.datatype}")
    array = np.ascontiguousarray(value, NUMPY_TYPES[spec.datatype])
    return Tensor(spec.name, spec.datatype, array.shape, array.tobytes())


def _read_safetensors(file: Path) -> dict[str, tuple[str, Any]]:
    from safetensors.numpy import load_file

    datatypes = {dtype: name for name, dtype in NUMPY_TYPES.items()}
    return {name: (datatypes[array.dtype], array) for name, array in load_file(file).items()}


def _read_json(file: Path) -> dict[str, tuple[str, Any]]:
    inputs = json.loads(file.read_text())["inputs"]
    if isinstance(inputs, dict):
        return {name: ("FP32", value) for name, value in inputs.items()}
    return {
        item["name"]: (item["datatype"], np.asarray(item["data"], dtype=object).reshape(item["shape"]))
        for item in inputs
    }
