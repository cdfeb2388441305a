"""Runs one batch of a model with state: rows from clients come from the host, their state lies on the device already.

Knows tensors, slots and the device, nothing of sequences. `engine/sequenced.py` calls it, `states.py` holds the state,
`stateful_cuda.py` is the call on a GPU. A call that fails keeps nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from compiler.golden import random_tensor
from compiler.spec import TensorSpec
from service.runtime.buffers import Staging
from service.runtime.cpu import Model
from service.runtime.device import Device
from service.runtime.runner import WARM_UP_CALLS, WARM_UP_SEED, Output, WrongOutput, read_output
from service.runtime.states import Places, States

Tensors = tuple[torch.Tensor, ...]
StatefulCall = Callable[[Sequence[torch.Tensor], Places], tuple[Tensors, tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class Signature:
    """What the artifact takes and gives; `state_inputs` and `state_outputs` are the positions of its state."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state_inputs: tuple[int, ...]
    state_outputs: tuple[int, ...]
    batched: bool

    @property
    def host_inputs(self) -> tuple[TensorSpec, ...]:
        """All but the state, in order."""
        return tuple(spec for index, spec in enumerate(self.inputs) if index not in self.state_inputs)

    @property
    def host_outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for index, spec in enumerate(self.outputs) if index not in self.state_outputs)

    @property
    def states(self) -> tuple[TensorSpec, ...]:
        return tuple(self.inputs[index] for index in self.state_inputs)

    def merge(self, laid: Sequence[torch.Tensor], states: Sequence[torch.Tensor]) -> Tensors:
        """The inputs in the artifact's order."""
        rest, own = iter(laid), dict(zip(self.state_inputs, states, strict=True))
        return tuple(own[index] if index in own else next(rest) for index in range(len(self.inputs)))

    def split(self, results: Sequence[torch.Tensor]) -> tuple[Tensors, Tensors]:
        """The outputs that go out, and those that are state."""
        out = tuple(result for index, result in enumerate(results) if index not in self.state_outputs)
        return out, tuple(results[index] for index in self.state_outputs)


class StatefulRunner:
    """One instance of a model; used by one thread only. `states` may be shared with other instances.

    `run(parts, shapes, places)` is as `runner.Runner.run`, of all inputs that are not state.
    """

    def __init__(
        self, model: Model, device: Device, signature: Signature, states: States, graphed: Collection[int] = ()
    ) -> None:
        self._signature = signature
        self._staging = [Staging(spec, pinned=device.is_cuda) for spec in signature.host_inputs]
        self._prepare: Callable[[Tensors, int], str] = lambda inputs, rows: ""
        self._model = model
        self._device = device
        self._call: StatefulCall = _CpuCall(model, signature, states)
        if device.is_cuda:
            from service.runtime.stateful_cuda import StatefulCudaCall

            call = StatefulCudaCall(model, device, signature, states, graphed)
            self._call, self._prepare = call, call.prepare

    def run(
        self, parts: Sequence[Sequence[memoryview]], shapes: Sequence[tuple[int, ...]], places: Places
    ) -> tuple[list[Output], tuple[int, int, int, int]]:
        """The outputs that are not state, and the nanoseconds of: stack, copy in, compute, copy out."""
        started = time.perf_counter_ns()
        laid = [staging.pack(rows, shape) for staging, rows, shape in zip(self._staging, parts, shapes, strict=True)]
        stacked = time.perf_counter_ns()
        results, phases = self._call(laid, places)
        outputs = [read_output(spec, each) for spec, each in zip(self._signature.host_outputs, results, strict=True)]
        return outputs, (stacked - started, *phases)

    def warm_up(self, shapes: Sequence[tuple[int, ...]], rows: int = 1) -> str:
        """As `runner.Runner.warm_up`, with a shape for each of the artifact's inputs; no state is touched."""
        generator = torch.Generator().manual_seed(WARM_UP_SEED)
        specs = self._signature.inputs
        inputs = tuple(random_tensor(spec, shape, generator) for spec, shape in zip(specs, shapes, strict=True))
        with torch.inference_mode():
            for _ in range(WARM_UP_CALLS):
                self._model(tuple(tensor.to(self._device.name) for tensor in inputs))
        self._device.synchronize()
        return self._prepare(inputs, rows)


class _CpuCall:
    """Calls one model where its inputs already lie."""

    def __init__(self, model: Model, signature: Signature, states: States) -> None:
        self._model = model
        self._signature = signature
        self._states = states

    def __call__(self, laid: Sequence[torch.Tensor], places: Places) -> tuple[Tensors, tuple[int, int, int]]:
        started = time.perf_counter_ns()
        with torch.inference_mode():
            states = self._states.lay(places)
            began = time.perf_counter_ns()
            results = self._model(self._signature.merge(laid, states))
            computed = time.perf_counter_ns()
            outputs, kept = self._signature.split(results)
            check_results(self._signature, outputs, kept, self._states, len(places.sources))
            self._states.keep(kept, places)
        return outputs, (began - started, computed - began, time.perf_counter_ns() - computed)


def check_results(signature: Signature, outputs: Tensors, kept: Tensors, states: States, bucket: int) -> None:
    """Raises WrongOutput where the results are not of this batch: then nothing may be kept of it."""
    difference = states.find_difference(kept, bucket)
    if difference:
        raise WrongOutput(f"a state {difference}")
    for spec, output in zip(signature.host_outputs, outputs, strict=True):
        if signature.batched and tuple(output.shape[:1]) != (bucket,):
            raise WrongOutput(f"output '{spec.name}' has shape {list(output.shape)} for a batch of {bucket} rows")
