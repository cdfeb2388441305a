"""Runs one batch on one device: lay the rows, copy in, compute, copy out.

Knows tensors and the device, nothing of requests, queues or sockets. `engine/models.py` calls it, `buffers.py` holds
the memory, `cpu.py` and `cuda.py` are the call on either, the model comes from `compiler.backends`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from compiler.datatypes import TORCH_TYPES
from compiler.golden import random_tensor
from compiler.spec import TensorSpec
from service.runtime.buffers import Input, Staging, as_bytes
from service.runtime.cpu import CpuCall, Model
from service.runtime.device import Device

if TYPE_CHECKING:
    from service.runtime.cuda import CudaCall, Flight

Call = Callable[[Sequence[Any], Collection[int]], tuple[tuple[torch.Tensor, ...], tuple[int, int, int]]]

BATCHES_AT_ONCE = 2  # one that runs and one that is laid meanwhile
WARM_UP_CALLS = 2  # TorchScript specialises on the second call
WARM_UP_SEED = 0


class WrongOutput(Exception):
    """The model gave other outputs than its manifest says."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a batch: `shape` with the bucket's rows, `data` its bytes in host memory."""

    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class Laid:
    """A batch that is ready: side by side in staging memory, or where a GPU fetches it; laying took `stack_ns`."""

    inputs: tuple[Input, ...]
    stack_ns: int
    staging: Sequence[Staging]


@dataclass(frozen=True, slots=True)
class Launched:
    """A batch that a GPU has been given, and has not answered yet."""

    laid: Laid
    flight: Flight


class Runner:
    """One instance of a model on a device.

    `lay(parts, shapes)` takes, for each input, the bytes of every request in order and the shape of the whole batch;
    `compute(laid)` runs what was laid, once. One thread may lay a batch while another computes one, no more than that.
    `run` is both. `graphed` are the batch sizes that the manifest says a CUDA graph can hold.

    Where `overlaps`, `launch(laid)` and `land(launched)` are the halves of `compute`: the thread that owns the instance
    may lay and launch one more batch while another thread waits for the first to land.
    """

    def __init__(
        self,
        model: Model,
        device: Device,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        graphed: Collection[int] = (),
    ) -> None:
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        # What is free; memory is taken as it is used, so that whoever never lays ahead has one.
        self._free = [
            [Staging(spec, device.is_cuda, device.registered) for spec in inputs] for _ in range(BATCHES_AT_ONCE)
        ]
        self._call: Call
        self._prepare: Callable[[tuple[torch.Tensor, ...], int], str]
        self._cuda: CudaCall | None = None
        if device.is_cuda:
            from service.runtime.cuda import CudaCall

            self._call = self._cuda = CudaCall(model, device, graphed)
            self._prepare = self._cuda.prepare
        else:
            call = CpuCall(model)
            self._call, self._prepare = call, call.prepare

    @property
    def overlaps(self) -> bool:
        """Whether the device computes on its own, so that there is something to do meanwhile."""
        return self._cuda is not None

    def run(
        self, parts: Sequence[Sequence[memoryview]], shapes: Sequence[tuple[int, ...]], stays: Collection[int] = ()
    ) -> tuple[list[Output], tuple[int, int, int, int]]:
        """Lay one batch and compute it."""
        return self.compute(self.lay(parts, shapes), stays)

    def lay(self, parts: Sequence[Sequence[memoryview]], shapes: Sequence[tuple[int, ...]]) -> Laid:
        """Put a batch into staging memory, where it stays until `compute` has run it."""
        started = time.perf_counter_ns()
        staging = self._free.pop()
        try:
            laid = [each.lay(rows, shape) for each, rows, shape in zip(staging, parts, shapes, strict=True)]
        except BaseException:
            self._free.append(staging)
            raise
        return Laid(tuple(laid), time.perf_counter_ns() - started, staging)

    def compute(self, laid: Laid, stays: Collection[int] = ()) -> tuple[list[Output], tuple[int, int, int, int]]:
        """The outputs and the nanoseconds of: stack, copy in, compute, copy out.

        Those whose indices are in `stays` come as bytes on the GPU, where the model runs on one.
        """
        try:
            results, phases = self._call(laid.inputs, stays)
            outputs = [read_output(spec, tensor) for spec, tensor in zip(self._outputs, results, strict=True)]
        finally:
            self._free.append(list(laid.staging))
        return outputs, (laid.stack_ns, *phases)

    def launch(self, laid: Laid, stays: Collection[int] = ()) -> Launched:
        """Give the device a batch, which it works on after those before it."""
        assert self._cuda is not None, "a processor has computed when it returns"
        try:
            return Launched(laid, self._cuda.launch(laid.inputs, stays))
        except BaseException:
            self._free.append(list(laid.staging))
            raise

    def land(self, launched: Launched) -> tuple[list[Output], tuple[int, int, int, int]]:
        """Wait for a batch; what `compute` returns. Any thread may call it."""
        assert self._cuda is not None, "it was launched"
        try:
            results, phases = self._cuda.land(launched.flight)
        finally:
            self._free.append(list(launched.laid.staging))
        outputs = [read_output(spec, tensor) for spec, tensor in zip(self._outputs, results, strict=True)]
        return outputs, (launched.laid.stack_ns, *phases)

    def warm_up(self, shapes: Sequence[tuple[int, ...]], rows: int = 1) -> str:
        """Call the model with these shapes; choose its threads, or record its CUDA graph.

        Returns why it has no graph, "" where it has one or needs none. `rows` is the batch size, 1 for a model that has
        none. Call it for the largest first: the graphs of smaller ones then reuse its memory.
        """
        generator = torch.Generator().manual_seed(WARM_UP_SEED)
        inputs = tuple(random_tensor(spec, shape, generator) for spec, shape in zip(self._inputs, shapes, strict=True))
        for _ in range(WARM_UP_CALLS):
            self._call(inputs, ())
        return self._prepare(inputs, rows)


def read_output(spec: TensorSpec, tensor: torch.Tensor) -> Output:
    """As it goes to clients. Raises WrongOutput where it is of another datatype."""
    if tensor.dtype is not TORCH_TYPES[spec.datatype]:
        raise WrongOutput(f"output '{spec.name}' came as {tensor.dtype}, expected {spec.datatype}")
    return Output(tuple(tensor.shape), as_bytes(tensor))
