"""What the steps gave, held to what comes after them: the model's inputs, or what clients were told of the outputs.

Pure. `stepped.py` and `generating.py` call it with what came from a process of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compiler.spec import TensorSpec
from service.checks import check_inputs
from service.engine.messages import Failure, Infer, Result
from service.engine.steps.messages import Described, Tensors
from service.errors import Code, ExecutionFailed, InvalidInput
from service.repository.catalog import Entry
from service.tensors import Tensor, describe, shape_text


def describe_inputs(entry: Entry, message: Infer) -> Tensors:
    """A client's request in the words of a process of steps."""
    return _describe(entry.inputs, message.shapes, message.sizes)


def describe_outputs(entry: Entry, result: Result) -> Tensors:
    """A model's answer in the words of a process of steps."""
    return _describe(entry.outputs, result.shapes, result.sizes)


def _describe(
    specs: Iterable[TensorSpec], shapes: Iterable[tuple[int, ...]], sizes: Iterable[int]
) -> tuple[Described, ...]:
    return tuple(
        Described(spec.name, spec.datatype, shape, size) for spec, shape, size in zip(specs, shapes, sizes, strict=True)
    )


def no_places(entry: Entry, message: Infer) -> Failure:
    """The refusal of tensors that lie in the memory of a GPU, where no step can reach them."""
    reason = f"model '{entry.name}' has Python steps, which cannot use CUDA shared memory: send the tensors themselves"
    return Failure(message.id, Code.UNSUPPORTED, reason)


def cut(tensors: Tensors, body: memoryview) -> list[memoryview]:
    """The bytes of each tensor."""
    parts = []
    for each in tensors:
        parts.append(body[: each.size])
        body = body[each.size :]
    return parts


def count_rows(file: str, tensors: Tensors, blobs: Sequence[memoryview], model: Entry) -> int:
    """The rows of what a step gives to the model. Raises ExecutionFailed where the model does not take it."""
    try:
        return check_inputs(
            tuple(
                Tensor(each.name, each.datatype, each.shape, blob) for each, blob in zip(tensors, blobs, strict=True)
            ),
            model,
        )
    except InvalidInput as error:
        raise ExecutionFailed(f"{file} of model '{model.name}' gave what the model does not take: {error}") from error


def check_outputs(file: str, tensors: Tensors, entry: Entry, rows: int) -> None:
    """Raises ExecutionFailed where clients were told of other shapes; `rows` 0: there is no batch."""
    for spec, each in zip(entry.outputs, tensors, strict=True):
        fits = len(spec.shape) == len(each.shape) and all(
            want in (-1, have) for want, have in zip(spec.shape, each.shape, strict=True)
        )
        if not fits or (rows and each.shape[0] != rows):
            expected = describe(spec) + (f" with {rows} rows" if rows else "")
            raise ExecutionFailed(
                f"{file} of model '{entry.name}': output '{each.name}' must be {expected}, got {shape_text(each.shape)}"
            )
