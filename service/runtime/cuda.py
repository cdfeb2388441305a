"""Calls of a model on a GPU: rows go from pinned memory in, through a CUDA graph where there is one, and back.

Knows tensors and streams, nothing of requests. `launch` only gives the GPU its work, `land` waits for it; a second call
may be launched before the first has landed: then its rows are copied in while the first one computes. `runner.py` lays
the rows, `compiler/graphs.py` records the graphs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from compiler.graphs import Graph, Graphs, Model
from service.runtime.device import Device
from service.runtime.waiting import Patience

Tensors = tuple[torch.Tensor, ...]

CALLS_AT_ONCE = 2  # one that computes and one whose rows are copied in meanwhile
ALIGNED = 512  # bytes: where each input begins in a buffer, as torch's own allocations do
LARGE = 1 << 20  # bytes of outputs: from here on the next batch does not wait until they are copied out


@dataclass(frozen=True, slots=True)
class Flight:
    """A call that the GPU works on. `kept` is what must not be reused before it has landed."""

    call: _Marks
    copies: Tensors
    kept: Tensors
    size: int


class CudaCall:
    """Calls one model on one GPU. `launch` is used by one thread, in the stream that is current there; `land` by any.

    `graphed` are the batch sizes whose calls were seen to be recordable when the model was compiled; 1 stands for a
    model without a batch dimension. Sizes that were never captured, and shapes that vary otherwise, run plainly.
    """

    def __init__(self, model: Model, device: Device, graphed: Collection[int] = ()) -> None:
        self._model = model
        self._device = device.name
        self._graphed = frozenset(graphed)
        self._graphs = Graphs(model, device.name)
        self._patience = Patience()
        with torch.cuda.device(self._device):
            self._inward, self._outward = (torch.cuda.Stream(self._device) for _ in range(2))  # type: ignore[no-untyped-call]
            self._free = [_Marks() for _ in range(CALLS_AT_ONCE)]

    def prepare(self, inputs: Tensors, rows: int) -> str:
        """Record a graph for the shapes of these inputs, which lie in host memory; why there is none, else ""."""
        if rows not in self._graphed:
            return "calls of this size were not seen to be recordable when the model was compiled"
        # Other models serve meanwhile, and what would spoil a recording was looked for when this one was compiled.
        return self._graphs.capture(tuple(tensor.to(self._device) for tensor in inputs), is_known=True)

    def __call__(
        self, laid: Sequence[torch.Tensor], stays: Collection[int] = ()
    ) -> tuple[Tensors, tuple[int, int, int]]:
        """Launch and land."""
        return self.land(self.launch(laid, stays))

    def launch(self, laid: Sequence[torch.Tensor], stays: Collection[int] = ()) -> Flight:
        """Give the GPU all of a call. What was laid must stay as it is until the flight has landed."""
        ahead = len(self._free) < CALLS_AT_ONCE and not any(tensor.is_cuda for tensor in laid)
        marks = self._free.pop()
        try:
            with torch.inference_mode():
                return self._launch(marks, laid, stays, ahead)
        except BaseException:
            for stream in (self._inward, torch.cuda.current_stream(self._device)):
                stream.synchronize()
            self._free.append(marks)
            raise

    def land(self, flight: Flight) -> tuple[Tensors, tuple[int, int, int]]:
        """Wait for it. The outputs in host memory; the nanoseconds of copying in, computing, copying out.

        All by the GPU's clock. Outputs whose indices were in `stays` are copied on the GPU.
        """
        marks = flight.call
        try:
            marks.wait(sleeps=self._patience.is_long(flight.size))
            phases = (
                nanoseconds(marks.began, marks.copied_in),
                nanoseconds(marks.begins, marks.computed),
                nanoseconds(marks.computed, marks.copied_out),
            )
        finally:
            self._free.append(marks)
        self._patience.took(flight.size, phases[1])
        return flight.copies, phases

    def _launch(self, marks: _Marks, laid: Sequence[torch.Tensor], stays: Collection[int], ahead: bool) -> Flight:
        here = torch.cuda.current_stream(self._device)
        graph = self._graphs.find(tuple(tuple(tensor.shape) for tensor in laid))
        if ahead:
            with torch.cuda.stream(self._inward):
                marks.began.record()
                brought = marks.bring(laid, self._device)
                marks.copied_in.record()
            here.wait_event(marks.copied_in)
        else:
            marks.began.record()
            brought = tuple(laid) if graph is not None else self._to_device(laid)
        results = self._compute(marks, graph, brought, is_copied=ahead)
        marks.computed.record()
        copies, kept = self._copy_out(marks, here, results, stays, is_overwritten=graph is not None)
        return Flight(marks, copies, (*brought, *kept), sum(tensor.nbytes for tensor in laid))

    def _to_device(self, laid: Sequence[torch.Tensor]) -> Tensors:
        return tuple(tensor.to(self._device, non_blocking=True) for tensor in laid)

    def _compute(self, marks: _Marks, graph: Graph | None, brought: Tensors, *, is_copied: bool) -> Tensors:
        """In the current stream: after the call before this one, whose graph and inputs it may share."""
        if graph is not None:
            for own, tensor in zip(graph.inputs, brought, strict=True):
                own.copy_(tensor, non_blocking=True)
        if not is_copied:
            marks.copied_in.record()
        marks.begins.record()
        if graph is None:
            return self._model(brought)
        graph.replay()
        return graph.outputs

    def _copy_out(
        self,
        marks: _Marks,
        here: torch.cuda.Stream,
        results: Tensors,
        stays: Collection[int],
        *,
        is_overwritten: bool,
    ) -> tuple[Tensors, Tensors]:
        """The copies, and what they are copied from. New memory for each answer: it is sent while others run."""
        leaves = sum(tensor.nbytes for index, tensor in enumerate(results) if index not in stays) >= LARGE
        if leaves and is_overwritten:
            results = tuple(tensor.clone() for tensor in results)  # the next replay may begin at once
        if leaves:
            here.record_event(marks.left)
            self._outward.wait_event(marks.left)
        # torch keeps pinned blocks for reuse, and hands none out again before what it knows of their use is over.
        copies = tuple(
            torch.empty_like(out) if index in stays else torch.empty(out.shape, dtype=out.dtype, pin_memory=True)
            for index, out in enumerate(results)
        )
        with torch.cuda.stream(self._outward if leaves else here):
            for copy, result in zip(copies, results, strict=True):
                copy.copy_(result, non_blocking=True)
            marks.end()
        return copies, results


class _Marks:
    """The events of one call, and memory on the GPU for inputs that come while another call computes."""

    def __init__(self) -> None:
        self.began, self.copied_in, self.begins, self.computed, self.copied_out = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(5)
        )
        self.left = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._slept = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._memory = torch.empty(0, dtype=torch.uint8)

    def bring(self, laid: Sequence[torch.Tensor], device: str) -> Tensors:
        """Copies of `laid` in this call's own memory on the GPU."""
        sizes = [-(-tensor.nbytes // ALIGNED) * ALIGNED for tensor in laid]
        if sum(sizes) > len(self._memory):
            self._memory = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        found, at = [], 0
        for tensor, size in zip(laid, sizes, strict=True):
            copy = self._memory[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            copy.copy_(tensor, non_blocking=True)
            found.append(copy)
            at += size
        return tuple(found)

    def end(self) -> None:
        """All has been given to the current stream."""
        self.copied_out.record()
        self._slept.record()

    def wait(self, *, sleeps: bool) -> None:
        """Until all is done; `sleeps` leaves the processor to others, and wakes up some microseconds later."""
        (self._slept if sleeps else self.copied_out).synchronize()


def nanoseconds(start: torch.cuda.Event, end: torch.cuda.Event) -> int:
    """By the clock of the GPU."""
    return int(start.elapsed_time(end) * 1e6)
