"""One call of a model with state on a GPU: its state stays there, from one batch to the next.

Knows tensors, slots and one stream. `stateful.py` lays the clients' rows; the graphs are as in `cuda.py`, whose inputs
the state is laid straight into.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from compiler.graphs import Graphs, Model
from service.runtime.cuda import nanoseconds
from service.runtime.device import Device
from service.runtime.stateful import Signature, Tensors, check_results
from service.runtime.states import Places, States


class StatefulCudaCall:
    """Calls one model on one GPU; used by one thread, in the stream that is current there."""

    def __init__(
        self, model: Model, device: Device, signature: Signature, states: States, graphed: Collection[int]
    ) -> None:
        self._model = model
        self._device = device.name
        self._signature = signature
        self._states = states
        self._graphed = frozenset(graphed)
        self._graphs = Graphs(model, device.name)
        with torch.cuda.device(self._device):
            self._marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]

    def prepare(self, inputs: Tensors, rows: int) -> str:
        """Record a graph for the shapes of these inputs, which lie in host memory; why there is none, else ""."""
        if rows not in self._graphed:
            return "calls of this size were not seen to be recordable when the model was compiled"
        return self._graphs.capture(tuple(tensor.to(self._device) for tensor in inputs), is_known=True)

    def __call__(self, laid: Sequence[torch.Tensor], places: Places) -> tuple[Tensors, tuple[int, int, int]]:
        """The outputs in host memory; the nanoseconds of copying in, computing, copying out, by the GPU's clock."""
        began, copied_in, computed, copied_out = self._marks
        with torch.inference_mode():
            began.record()
            results = self._compute(laid, places, copied_in)
            computed.record()
            outputs, kept = self._signature.split(results)
            check_results(self._signature, outputs, kept, self._states, len(places.sources))
            self._states.keep(kept, places)
            hosts = tuple(torch.empty(out.shape, dtype=out.dtype, pin_memory=True) for out in outputs)
            for host, output in zip(hosts, outputs, strict=True):
                host.copy_(output, non_blocking=True)
            copied_out.record()
            copied_out.synchronize()  # the state is kept too by now: another thread's stream may read it
        return hosts, (
            nanoseconds(began, copied_in),
            nanoseconds(copied_in, computed),
            nanoseconds(computed, copied_out),
        )

    def _compute(self, laid: Sequence[torch.Tensor], places: Places, copied_in: torch.cuda.Event) -> Tensors:
        shapes = self._states.shapes(len(places.sources))
        order = self._signature.merge(laid, [torch.empty(shape, device="meta") for shape in shapes])
        graph = self._graphs.find(tuple(tuple(tensor.shape) for tensor in order))
        if graph is None:
            hosts = [tensor.to(self._device, non_blocking=True) for tensor in laid]
            inputs = self._signature.merge(hosts, self._states.lay(places))
            copied_in.record()
            return self._model(inputs)
        own = [graph.inputs[index] for index in self._signature.state_inputs]
        rest = [each for index, each in enumerate(graph.inputs) if index not in self._signature.state_inputs]
        for target, tensor in zip(rest, laid, strict=True):
            target.copy_(tensor, non_blocking=True)
        self._states.lay(places, own)
        copied_in.record()
        graph.replay()
        return graph.outputs
