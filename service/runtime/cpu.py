"""The call of a model on the processor, by as many threads as pay for it.

PyTorch's threads are a team of the thread that calls, and their number is that thread's own. A team costs its members'
meeting at the end of each operation, for which they wait busily; where the cores are taken by others, as a small
machine's are by its frontends, that is most of what a small model takes. `runner.py` calls this.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

import torch

Model = Callable[[tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]

TINY_S = 0.001  # a batch that one thread runs in less gains too little by a second one to pay for it
WORTH = 0.8  # of one thread's time: a team that takes more than this keeps cores from others for little
TRIES = 3  # the fastest counts: others use the machine too


class CpuCall:
    """Calls one model where its inputs lie already: nothing is copied. `threads` 0: as many as the process has."""

    def __init__(self, model: Model) -> None:
        self.threads = 0
        self._model = model
        self._owner = 0  # the thread whose number of threads is set to ours

    def __call__(
        self, laid: Sequence[torch.Tensor], stays: Collection[int]
    ) -> tuple[tuple[torch.Tensor, ...], tuple[int, int, int]]:
        if self.threads and self._owner != threading.get_ident():
            self._owner = threading.get_ident()
            set_own_threads(self.threads)
        started = time.perf_counter_ns()
        with torch.inference_mode():
            results = self._model(tuple(laid))
        results = apart(results, laid)
        return results, (0, time.perf_counter_ns() - started, 0)

    def prepare(self, inputs: tuple[torch.Tensor, ...], rows: int) -> str:
        """Find out how many threads pay, by the first batch this is asked with, which is the largest."""
        most = torch.get_num_threads()
        if not self.threads:
            try:
                self.threads = 1
                if most > 1:
                    alone, together = self._time(inputs, 1), self._time(inputs, most)
                    self.threads = choose_threads(most, alone, together)
            finally:
                torch.set_num_threads(most)
        return ""

    def _time(self, inputs: tuple[torch.Tensor, ...], threads: int) -> float:
        set_own_threads(threads)
        fastest = float("inf")
        for _ in range(TRIES):
            started = time.perf_counter()
            with torch.inference_mode():
                self._model(inputs)
            fastest = min(fastest, time.perf_counter() - started)
        return fastest


def choose_threads(most: int, alone_s: float, together_s: float) -> int:
    """One or all: by the seconds of the largest batch on one thread, and on all."""
    return 1 if alone_s < TINY_S or together_s > WORTH * alone_s else most


def set_own_threads(count: int) -> None:
    """How many threads the operations of the calling thread use."""
    torch.get_num_threads()  # a thread is given the process's number when it first asks: let that be behind us
    torch.set_num_threads(count)


def apart(results: tuple[torch.Tensor, ...], laid: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The results, copied where they are the inputs' memory, in which the next batch will lie."""
    spans = [(at := tensor.data_ptr(), at + tensor.nbytes) for tensor in laid]

    def lies_within(tensor: torch.Tensor) -> bool:
        at = tensor.data_ptr()
        return any(start <= at < end for start, end in spans)

    return tuple([tensor.clone() if lies_within(tensor) else tensor for tensor in results])
