"""One call of a model on a GPU: rows go from pinned memory in, through a CUDA graph where there is one, and back.

Knows tensors and one stream, nothing of requests. The processor only launches: it waits once, when all is under way.
`runner.py` lays the rows, `compiler/graphs.py` records the graphs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from compiler.graphs import Graphs, Model
from service.runtime.device import Device


class CudaCall:
    """Calls one model on one GPU; used by one thread, in the stream that is current there.

    `graphed` are the batch sizes whose calls were seen to be recordable when the model was compiled; 1 stands for a
    model without a batch dimension. Sizes that were never captured, and shapes that vary otherwise, run plainly.
    """

    def __init__(self, model: Model, device: Device, graphed: Collection[int] = ()) -> None:
        self._model = model
        self._device = device.name
        self._graphed = frozenset(graphed)
        self._graphs = Graphs(model, device.name)
        with torch.cuda.device(self._device):
            self._marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]

    def prepare(self, inputs: tuple[torch.Tensor, ...], rows: int) -> str:
        """Record a graph for the shapes of these inputs, which lie in host memory; why there is none, else ""."""
        if rows not in self._graphed:
            return "calls of this size were not seen to be recordable when the model was compiled"
        # Other models serve meanwhile, and what would spoil a recording was looked for when this one was compiled.
        return self._graphs.capture(tuple(tensor.to(self._device) for tensor in inputs), is_known=True)

    def __call__(
        self, laid: Sequence[torch.Tensor], stays: Collection[int] = ()
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, int, int]]:
        """The outputs in host memory; the nanoseconds of copying in, computing, copying out, by the GPU's clock.

        Outputs whose indices are in `stays` are copied on the GPU.
        """
        began, copied_in, computed, copied_out = self._marks
        with torch.inference_mode():
            began.record()
            graph = self._graphs.find(tuple(tuple(tensor.shape) for tensor in laid))
            if graph is None:
                inputs = tuple(tensor.to(self._device, non_blocking=True) for tensor in laid)
                copied_in.record()
                results = self._model(inputs)
            else:
                for own, tensor in zip(graph.inputs, laid, strict=True):
                    own.copy_(tensor, non_blocking=True)
                copied_in.record()
                graph.replay()
                results = graph.outputs
            computed.record()
            # New memory for each answer: it is sent while the next batch runs. torch keeps pinned blocks for reuse.
            copies = tuple(
                torch.empty_like(out) if index in stays else torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
                for index, out in enumerate(results)
            )
            for copy, result in zip(copies, results, strict=True):
                copy.copy_(result, non_blocking=True)
            copied_out.record()
            copied_out.synchronize()
        return copies, (
            nanoseconds(began, copied_in),
            nanoseconds(copied_in, computed),
            nanoseconds(computed, copied_out),
        )


def nanoseconds(start: torch.cuda.Event, end: torch.cuda.Event) -> int:
    """By the clock of the GPU."""
    return int(start.elapsed_time(end) * 1e6)
