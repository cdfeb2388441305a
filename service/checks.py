"""Is this request one the model can take? Names, datatypes, shapes, sizes, the batch; each refusal says how to mend it.

Pure. `plane.py` asks before a request goes to an engine; engines trust what they get.
"""

from __future__ import annotations

from compiler.spec import ITEM_SIZES, TensorSpec
from service.errors import InvalidInput
from service.padded_sizes import read_sizes
from service.repository.catalog import Entry
from service.tensors import RequestedOutput, Tensor, describe, shape_text, unpack_bytes

REQUEST_BATCHES = 64  # a request may be of so many batches unless model.yaml says: its answer has to be held in memory


def check_inputs(inputs: tuple[Tensor, ...], entry: Entry) -> int:
    """Check names, datatypes, shapes and sizes against the model. Returns the rows (1 where the model has no batch).

    Inputs with a default may be missing, and masks that the server makes.
    """
    rows: int | None = None
    specs = {spec.name: spec for spec in entry.inputs}
    seen: set[str] = set()
    for tensor in inputs:
        spec = specs.get(tensor.name)
        if spec is None:
            raise InvalidInput(f"model '{entry.name}' has no input '{tensor.name}': its inputs are {_names(entry)}")
        if tensor.name in seen:
            raise InvalidInput(f"input '{tensor.name}' is given twice")
        seen.add(tensor.name)
        reason = _find_mismatch(tensor, spec, entry.max_batch_size)
        if reason:
            expected, got = describe(spec, entry.max_batch_size), f"{tensor.datatype} {shape_text(tensor.shape)}"
            raise InvalidInput(f"input '{tensor.name}': expected {expected}, got {got}{reason}")
        if entry.max_batch_size:
            rows = _check_rows(tensor, rows, entry)
    if len(seen) != len(specs) and not entry.optional >= specs.keys() - seen:
        missing = ", ".join(f"'{name}'" for name in specs if name not in seen and name not in entry.optional)
        raise InvalidInput(f"model '{entry.name}': missing input {missing}: its inputs are {_names(entry)}")
    if entry.pad is not None:
        read_sizes(entry.pad, [(tensor.name, tensor.shape) for tensor in inputs], entry.name)
    return rows or 1


def check_names(inputs: tuple[Tensor, ...], entry: Entry) -> None:
    """Before tensors are fetched from elsewhere: is each an input of the model, and named once?"""
    names = [tensor.name for tensor in inputs]
    for name in names:
        if all(spec.name != name for spec in entry.inputs):
            raise InvalidInput(f"model '{entry.name}' has no input '{name}': its inputs are {_names(entry)}")
        if names.count(name) > 1:
            raise InvalidInput(f"input '{name}' is given twice")


def _find_mismatch(tensor: Tensor, spec: TensorSpec, max_batch_size: int) -> str:
    """What to do about a tensor that is not as `spec` says; "" where it is."""
    if tensor.datatype != spec.datatype:
        text = "this model takes numbers, not text: " if tensor.datatype == "BYTES" else ""
        return f": {text}send the data as {spec.datatype}"
    shape = tensor.shape
    if len(shape) != len(spec.shape):
        missing_batch = max_batch_size and len(shape) + 1 == len(spec.shape)
        return ": add the batch dimension" if missing_batch else f": send {len(spec.shape)} dimensions"
    count = 1
    for axis, (want, have) in enumerate(zip(spec.shape, shape, strict=True)):
        if have != want and (want >= 0 or have < 0):
            return f": dimension {axis} must be {want if want >= 0 else 'zero or more'}"
        count *= have
    if tensor.datatype == "BYTES":
        unpack_bytes(tensor.data, count)
        return ""
    size = ITEM_SIZES[tensor.datatype] * count
    if len(tensor.data) != size:
        return f" with {len(tensor.data)} bytes: this shape takes {size} bytes"
    return ""


def _check_rows(tensor: Tensor, rows: int | None, entry: Entry) -> int:
    batch = tensor.shape[0]
    if batch < 1:
        raise InvalidInput(
            f"input '{tensor.name}': the batch is empty, got {shape_text(tensor.shape)}: send 1 row or more"
        )
    if batch > entry.max_batch_size and batch > (limit := max_rows(entry)):
        word = "max_request_rows" if limit > entry.max_batch_size else "max_batch_size"
        raise InvalidInput(
            f"input '{tensor.name}': batch of {batch} rows is larger than {word} {limit} of model '{entry.name}': "
            "split the request"
        )
    if rows is not None and batch != rows:
        raise InvalidInput(
            f"input '{tensor.name}' has {batch} rows, another input has {rows}: "
            "all inputs of a request share the batch size"
        )
    return batch


def max_rows(entry: Entry) -> int:
    """The rows that a request may have where the model batches: more than a batch holds are run in parts."""
    if not entry.batching.split or entry.sequencing is not None:
        return entry.max_batch_size
    return entry.batching.max_request_rows or REQUEST_BATCHES * entry.max_batch_size


def check_outputs(outputs: tuple[RequestedOutput, ...], entry: Entry) -> tuple[RequestedOutput, ...]:
    """The outputs to answer, all of the model's where none is asked for."""
    if not outputs:
        return tuple(RequestedOutput(spec.name) for spec in entry.outputs)
    known = [spec.name for spec in entry.outputs]
    seen: set[str] = set()
    for output in outputs:
        if output.name not in known:
            raise InvalidInput(
                f"model '{entry.name}' has no output '{output.name}': its outputs are {', '.join(known)}"
            )
        if output.name in seen:
            raise InvalidInput(f"output '{output.name}' is asked for twice")
        seen.add(output.name)
    return outputs


def _names(entry: Entry) -> str:
    return ", ".join(f"'{spec.name}' {describe(spec, entry.max_batch_size)}" for spec in entry.inputs)
