"""Calls of a model on a GPU: rows go from pinned memory in, through a CUDA graph where there is one, and back.

Knows tensors and streams, nothing of requests. `launch` only gives the GPU its work, `land` waits for it; a second call
may be launched before the first has landed: then its rows are copied in while the first one computes. `runner.py` lays
the rows, `compiler/graphs.py` records the graphs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import torch

from compiler.graphs import Graph, Graphs, Model
from service.runtime.buffers import MAX_SHAPES, Input, bring
from service.runtime.device import Device
from service.runtime.waiting import Patience, Phases

Tensors = tuple[torch.Tensor, ...]

CALLS_AT_ONCE = 2  # one that computes and one whose rows are copied in meanwhile
ALIGNED = 512  # bytes: where each input begins in a buffer, as torch's own allocations do
LARGE = 1 << 20  # bytes of outputs: from here on the next batch does not wait until they are copied out


@dataclass(frozen=True, slots=True)
class Flight:
    """A call that the GPU works on since `began`. `kept` is what must not be reused before it has landed."""

    call: _Marks
    copies: Tensors
    kept: tuple[Input, ...]
    size: int
    began: int


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
        self._patience = Patience()  # first calls take seconds
        # Other models serve meanwhile, and what would spoil a recording was looked for when this one was compiled.
        return self._graphs.capture(tuple(tensor.to(self._device) for tensor in inputs), is_known=True)

    def __call__(self, laid: Sequence[Input], stays: Collection[int] = ()) -> tuple[Tensors, Phases]:
        """Launch and land."""
        return self.land(self.launch(laid, stays))

    def launch(self, laid: Sequence[Input], stays: Collection[int] = ()) -> Flight:
        """Give the GPU all of a call. What was laid must stay as it is until the flight has landed."""
        began, size = time.monotonic_ns(), sum([each.nbytes for each in laid])
        ahead = len(self._free) < CALLS_AT_ONCE and not any(each.is_cuda for each in laid)
        marks = self._free.pop()
        marks.is_timed = self._patience.is_timed(size, began)
        marks.is_woken = self._patience.is_woken(size)
        try:
            with torch.inference_mode():
                copies, kept = self._launch(marks, laid, stays, ahead)
        except BaseException:
            for stream in (self._inward, torch.cuda.current_stream(self._device)):
                stream.synchronize()
            self._free.append(marks)
            raise
        return Flight(marks, copies, kept, size, began)

    def land(self, flight: Flight) -> tuple[Tensors, Phases]:
        """Wait for it. The outputs in host memory; the nanoseconds of copying in, computing, copying out.

        All by the GPU's clock, of the last call of this size that was timed. Outputs whose indices were in `stays` are
        copied on the GPU.
        """
        marks, size = flight.call, flight.size
        try:
            nap = 0 if marks.is_woken else self._patience.nap_ns(size, flight.began, time.monotonic_ns())
            if nap:
                time.sleep(nap / 1e9)
            is_seen = not (nap and marks.is_over)
            marks.wait()
            now = time.monotonic_ns()
            if marks.is_timed:
                self._patience.timed(size, now, marks.phases())
        finally:
            self._free.append(marks)
        self._patience.landed(size, flight.began, now, is_seen=is_seen)
        return flight.copies, self._patience.phases(size)

    def _launch(
        self, marks: _Marks, laid: Sequence[Input], stays: Collection[int], ahead: bool
    ) -> tuple[Tensors, tuple[Input, ...]]:
        here = torch.cuda.current_stream(self._device)
        graph = self._graphs.find(tuple([tuple(each.shape) for each in laid]))
        brought: Sequence[Input] = laid
        if ahead:
            with torch.cuda.stream(self._inward):
                marks.time(marks.began, self._inward)
                brought = marks.bring(laid, self._device, self._inward.cuda_stream)
                marks.time(marks.copied_in, self._inward)
                marks.arrived.record(self._inward)
            here.wait_event(marks.arrived)
        else:
            marks.time(marks.began, here)
        results = self._compute(marks, here, graph, brought, is_copied=ahead)
        marks.time(marks.computed, here)
        copies, kept = self._copy_out(marks, here, results, stays, is_overwritten=graph is not None)
        return copies, (*laid, *brought, *kept)

    def _compute(
        self, marks: _Marks, here: torch.cuda.Stream, graph: Graph | None, brought: Sequence[Input], *, is_copied: bool
    ) -> Tensors:
        """In the current stream: after the call before this one, whose graph and inputs it may share."""
        if graph is not None:
            inputs = graph.inputs
            for own, source in zip(inputs, brought, strict=True):
                bring(source, own, here.cuda_stream)
        else:
            inputs = tuple([self._to_device(source, here.cuda_stream) for source in brought])
        if not is_copied:
            marks.time(marks.copied_in, here)
        marks.time(marks.begins, here)
        if graph is None:
            return self._model(inputs)
        graph.replay()
        return graph.outputs

    def _to_device(self, source: Input, stream: int) -> torch.Tensor:
        if isinstance(source, torch.Tensor):
            return source.to(self._device, non_blocking=True)
        target = torch.empty(source.shape, dtype=source.dtype, device=self._device)
        bring(source, target, stream)
        return target

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
        stream = self._outward if leaves else here
        with torch.cuda.stream(stream) if leaves else contextlib.nullcontext():
            for copy, result in zip(copies, results, strict=True):
                copy.copy_(result, non_blocking=True)
        marks.end(stream)
        return copies, results


class _Marks:
    """The events of one call, and memory on the GPU for inputs that come while another call computes."""

    def __init__(self) -> None:
        self.began, self.copied_in, self.begins, self.computed, self.copied_out = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(5)
        )
        self.arrived, self.left, self._done = (torch.cuda.Event() for _ in range(3))  # type: ignore[no-untyped-call]
        self._slept = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._copies: dict[Hashable, Tensors] = {}  # views of it, by shapes and types: to make them takes 30 µs
        self.is_timed = self.is_woken = False

    def time(self, event: torch.cuda.Event, stream: torch.cuda.Stream) -> None:
        """Let the GPU note the time, where this call is timed."""
        if self.is_timed:
            event.record(stream)

    def bring(self, laid: Sequence[Input], device: str, stream: int) -> Tensors:
        """Copies of `laid` in this call's own memory on the GPU."""
        key = tuple([(each.shape, each.dtype) for each in laid])
        copies = self._copies.get(key)
        if copies is None:
            copies = self._copies[key] = self._find_room(laid, device)
        for source, copy in zip(laid, copies, strict=True):
            bring(source, copy, stream)
        return copies

    def _find_room(self, laid: Sequence[Input], device: str) -> Tensors:
        sizes = [-(-each.nbytes // ALIGNED) * ALIGNED for each in laid]
        if sum(sizes) > len(self._memory) or len(self._copies) >= MAX_SHAPES:
            self._copies.clear()
        if sum(sizes) > len(self._memory):
            self._memory = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        found, at = [], 0
        for source, size in zip(laid, sizes, strict=True):
            found.append(self._memory[at : at + source.nbytes].view(source.dtype).view(source.shape))
            at += size
        return tuple(found)

    def end(self, stream: torch.cuda.Stream) -> None:
        """All has been given to this stream."""
        self.time(self.copied_out, stream)
        (self._slept if self.is_woken else self._done).record(stream)

    def wait(self) -> None:
        """Until all is done: watching, or, where it `is_woken`, asleep."""
        (self._slept if self.is_woken else self._done).synchronize()

    @property
    def is_over(self) -> bool:
        """Whether all is done already."""
        return bool((self._slept if self.is_woken else self._done).query())  # type: ignore[no-untyped-call]

    def phases(self) -> Phases:
        """By the clock of the GPU, where it was timed."""
        return (
            nanoseconds(self.began, self.copied_in),
            nanoseconds(self.begins, self.computed),
            nanoseconds(self.computed, self.copied_out),
        )


def nanoseconds(start: torch.cuda.Event, end: torch.cuda.Event) -> int:
    """By the clock of the GPU."""
    return int(start.elapsed_time(end) * 1e6)
