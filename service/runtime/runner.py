"""Runs one batch on one device: lay the rows, copy in, compute, copy out.

Knows tensors and the device, nothing of requests, queues or sockets. `engine/models.py` calls it, `buffers.py` holds
the memory, the callable comes from `compiler.backends`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from compiler.datatypes import TORCH_TYPES
from compiler.spec import ITEM_SIZES, TensorSpec
from service.runtime.buffers import Staging, as_bytes
from service.runtime.device import Device

Model = Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]


class WrongOutput(Exception):
    """The model gave other outputs than its manifest says."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a batch: `shape` with the bucket's rows, `data` its bytes in host memory."""

    shape: tuple[int, ...]
    data: memoryview


class Runner:
    """One instance of a model on a device; used by one thread only.

    `run(parts, shapes)` takes, for each input, the bytes of every request in order and the shape of the whole batch.
    """

    def __init__(
        self, model: Model, device: Device, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        self._model = model
        self._device = device
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._staging = [Staging(spec, pinned=device.is_cuda) for spec in inputs]

    def run(
        self, parts: Sequence[Sequence[memoryview]], shapes: Sequence[tuple[int, ...]]
    ) -> tuple[list[Output], tuple[int, int, int, int]]:
        """The outputs and the nanoseconds of: stack, copy in, compute, copy out."""
        started = time.perf_counter_ns()
        laid = [staging.lay(rows, shape) for staging, rows, shape in zip(self._staging, parts, shapes, strict=True)]
        stacked = time.perf_counter_ns()
        with torch.inference_mode():
            if self._device.is_cuda:
                laid = [tensor.to(self._device.name, non_blocking=True) for tensor in laid]
            copied_in = time.perf_counter_ns()
            results = self._model(tuple(laid))
            self._device.synchronize()
            computed = time.perf_counter_ns()
            outputs = [self._output(spec, tensor) for spec, tensor in zip(self._outputs, results, strict=True)]
        copied_out = time.perf_counter_ns()
        return outputs, (stacked - started, copied_in - stacked, computed - copied_in, copied_out - computed)

    def warm_up(self, shapes: Sequence[tuple[int, ...]]) -> None:
        """Run zeros of these shapes twice: TorchScript specialises on the second call."""
        pairs = zip(self._inputs, shapes, strict=True)
        blank = [[memoryview(bytes(ITEM_SIZES[spec.datatype] * math.prod(shape)))] for spec, shape in pairs]
        for _ in range(2):
            self.run(blank, shapes)

    def _output(self, spec: TensorSpec, tensor: torch.Tensor) -> Output:
        if tensor.dtype is not TORCH_TYPES[spec.datatype]:
            raise WrongOutput(f"output '{spec.name}' came as {tensor.dtype}, expected {spec.datatype}")
        host = tensor.to("cpu") if self._device.is_cuda else tensor
        return Output(tuple(host.shape), as_bytes(host))
