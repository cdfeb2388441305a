"""Whole-module CUDA graphs: one recorded call per set of input shapes, replayed without Python, launches or dispatch.

Knows nothing of backends, batches or requests: a model is a callable of tensors to tensors on one GPU. `judge.py`
captures the batch sizes that it times and keeps which ones could be; `service/runtime/cuda.py` captures those again at
load and copies requests straight into the graph's inputs.

    graphs = Graphs(model, "cuda:0")
    for batch in sorted(buckets, reverse=True):     largest first: the smaller graphs then reuse its memory
        why_not = graphs.capture(inputs[batch])     "" where the replay gave what the plain call gives
    outputs = graphs.replay(inputs[8])              copies into the graph's own inputs; plain where there is no graph

The outputs of a replay are the graph's own memory: the next replay of any of these graphs overwrites them. They share
one memory pool, so they must never replay side by side: one thread owns them.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Model = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
Shapes = tuple[tuple[int, ...], ...]

WARM_UP_CALLS = 3  # TorchScript specialises in the first two calls of a shape, TensorRT-RTX compiles in the first
CHANGED = 1e-3  # of the largest magnitude: other algorithms may round otherwise, a stale or missing write is far off


@dataclass(frozen=True)
class Graph:
    """One recorded call: fill `inputs`, `replay()` on any stream, read `outputs` there before the next replay."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    recorded: torch.cuda.CUDAGraph

    def replay(self) -> None:
        self.recorded.replay()


class Graphs:
    """The graphs of one model on one GPU, by the shapes of its inputs."""

    def __init__(self, model: Model, device: str) -> None:
        self._model = model
        self._device = torch.device(device)
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None  # torch's handle of the memory that all of them share
        self._graphs: dict[Shapes, Graph] = {}

    def __repr__(self) -> str:
        return f"<Graphs of {len(self._graphs)} shapes on {self._device}>"

    def capture(self, inputs: tuple[Tensor, ...], *, is_known: bool = False) -> str:
        """Record a call with the shapes of `inputs`, whose values must be legal; why it could not be, else "".

        A call that waits for the GPU is refused before it is recorded: a broken recording may break the next one.
        The switch for that is the whole process's; `is_known` leaves it alone where other threads serve and the judge
        has recorded the same call before.
        """
        with torch.inference_mode(), torch.cuda.device(self._device):
            if self._stream is None:
                self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            try:
                graph = self._record(inputs, self._stream, is_known)
                difference = self._compare(graph, inputs)
            except Exception as error:  # noqa: BLE001 - models raise anything, and the plain call remains
                torch.cuda.synchronize(self._device)
                return f"no CUDA graph of this model: {telling_line(error)}"
        if difference:
            return f"the CUDA graph's replay differs from the plain call: {difference}"
        self._graphs[_shapes(inputs)] = graph
        return ""

    def find(self, shapes: Shapes) -> Graph | None:
        """The graph of these input shapes."""
        return self._graphs.get(shapes)

    def replay(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The outputs, on the current stream, valid until the next call; a plain call where nothing was recorded."""
        graph = self._graphs.get(_shapes(inputs))
        if graph is None:
            return self._model(inputs)
        with torch.inference_mode():
            for own, given in zip(graph.inputs, inputs, strict=True):
                own.copy_(given, non_blocking=True)
            graph.replay()
        return graph.outputs

    def _record(self, given: tuple[Tensor, ...], stream: torch.cuda.Stream, is_known: bool) -> Graph:
        inputs = tuple(tensor.to(self._device, copy=True) for tensor in given)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self._model(inputs)
            stream.synchronize()
            with contextlib.nullcontext() if is_known else _refusing_to_wait():
                self._model(inputs)
        stream.synchronize()
        recorded = torch.cuda.CUDAGraph()
        # thread_local: other threads go on serving; only what this thread does may spoil the recording.
        with torch.cuda.graph(recorded, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            outputs = self._model(inputs)
        self._pool = self._pool or recorded.pool()
        return Graph(inputs, tuple(outputs), recorded)

    def _compare(self, graph: Graph, inputs: tuple[Tensor, ...]) -> str:
        """Replay with other values than those recorded, twice; what differs from the plain call, else ""."""
        for turn in (1, 2):
            for own, given in zip(graph.inputs, inputs, strict=True):
                own.copy_(_shuffle(given, turn))
            wanted = self._model(tuple(own.clone() for own in graph.inputs))
            graph.replay()
            torch.cuda.current_stream(self._device).synchronize()
            for index, (got, want) in enumerate(zip(graph.outputs, wanted, strict=True)):
                difference = find_difference(got, want)
                if difference:
                    return f"output {index}: {difference}"
        return ""


def telling_line(error: BaseException) -> str:
    """The line of an error that says what happened: the last that names one; TorchScript puts its traceback first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line]
    return (named[-1] if named else f"{type(error).__name__}: {lines[0] if lines else ''}")[:300]


def find_difference(got: Tensor, want: Tensor) -> str:
    """What distinguishes two results of one computation, "" where nothing does but the last digits."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype} {tuple(got.shape)} instead of {want.dtype} {tuple(want.shape)}"
    if torch.equal(got, want):
        return ""
    if not want.dtype.is_floating_point:
        return "other values"
    got, want = got.double(), want.double()
    if not torch.equal(got.isfinite(), want.isfinite()):
        return "other elements are not finite"
    got, want = got.nan_to_num(0.0, 0.0, 0.0), want.nan_to_num(0.0, 0.0, 0.0)
    error, most = float((got - want).abs().max()), float(want.abs().max())
    return f"by {error:.3g} where the largest magnitude is {most:.3g}" if error > CHANGED * most else ""


def _shuffle(tensor: Tensor, turn: int) -> Tensor:
    """The same values in another order: as legal as the given ones, and different for each `turn`."""
    return tensor.reshape(-1).roll(turn * (tensor.numel() // 3 + 1)).reshape(tensor.shape)


def _shapes(inputs: tuple[Tensor, ...]) -> Shapes:
    return tuple(tuple(tensor.shape) for tensor in inputs)


@contextlib.contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Let torch raise where a call would wait for the GPU, as `.item()` does: no graph can hold such a call."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
