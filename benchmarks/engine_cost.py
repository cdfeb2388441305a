"""What an engine costs beside the model: processor time per request from socket to socket, at several batch sizes.

    python -m benchmarks.engine_cost [--out benchmarks/results/engine_cost.json]

The engine's own listener, queue, batcher and runner in this process, around a model that costs nearly nothing (64 in,
10 out); a process of its own sends bursts of requests of one row and waits for the answers, as a frontend does. Told is
the processor time of this process alone, the median of several rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compiler.spec import TensorSpec
from service.bench.results import describe_machine, write_results
from service.engine.arena import Guest
from service.engine.batcher import Batcher, Policy, Run
from service.engine.listener import DataConnection, Listener
from service.engine.messages import Cancel, Infer, Result, Took
from service.engine.models import ServedModel
from service.engine.queues import Waiting
from service.engine.served import Pending
from service.engine.transport import FrameReader, frame, split
from service.observe.batch_recorder import BatchRecorder
from service.observe.store import Store
from service.repository.catalog import Entry, State
from service.repository.model_config import Batching
from service.runtime.device import Device
from service.runtime.runner import Runner

BATCHES = (1, 8, 32)
BUCKETS = (1, 2, 4, 8, 16, 32)
ROUNDS, SECONDS = 7, 1.0
SWITCH_INTERVAL_S = 0.0005  # as the engine's own
DEADLINE_S = 1000.0  # from now: far, yet one that has to be kept in order


class Receiver:
    """Gives requests to one model, as an engine does."""

    def __init__(self, served: ServedModel) -> None:
        self._served = served

    def handle(
        self, message: Infer | Cancel | Took, body: memoryview, connection: DataConnection, is_alone: bool
    ) -> None:
        if isinstance(message, Infer):
            self._served.submit(Pending(message, split(body, message.sizes), connection), time.monotonic())

    def beat(self) -> None:
        """Nobody watches."""

    def shares(self, guest: Guest) -> None:
        """Nothing copies by itself from there."""

    def forget(self, connection: DataConnection) -> None:
        self._served.forget(connection)


def press(path: str, told: Connection) -> None:
    """The client's process: for each (requests in a burst, seconds, deadline or None) the bursts answered."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        reader: FrameReader[Any] = FrameReader(Result)
        row = np.ones((1, 64), np.float32).tobytes()
        while (order := told.recv()) is not None:
            burst, seconds, deadline = order
            messages = [Infer(n, "mlp", "1", 1, ((1, 64),), (len(row),), deadline) for n in range(burst)]
            sent = b"".join(bytes(part) for message in messages for part in frame(message, [row]))
            ends, bursts = time.monotonic() + seconds, 0
            while time.monotonic() < ends:
                sock.sendall(sent)
                answered = 0
                while answered < burst:
                    answered += sum(1 for _ in reader.received(sock.recv_into(reader.buffer())))
                bursts += 1
            told.send(bursts)


@contextmanager
def engine(path: str) -> Iterator[None]:
    """The MLP's own shapes around one multiplication, served in this process."""
    x, y = TensorSpec("x", "FP32", (-1, 64)), TensorSpec("y", "FP32", (-1, 10))
    batching = Batching(max_queue_size=10_000)
    entry = Entry(
        "mlp", "1", State.READY, inputs=(x,), outputs=(y,), max_batch_size=32, buckets=BUCKETS, batching=batching
    )
    device, weight = Device("cpu", 1), torch.rand(64, 10)
    runner = Runner(lambda inputs: (inputs[0] @ weight,), device, entry.inputs, entry.outputs)
    runner.warm_up([(BUCKETS[-1], 64)], BUCKETS[-1])  # as an engine does: it chooses the threads that compute
    served = ServedModel(entry, [runner], device, BatchRecorder(Store(None), "mlp", "1"))
    served.start(on_broken=sys.exit)
    Listener(path, Receiver(served)).start()
    yield
    served.close()


def measure(told: Connection, burst: int, deadline: float | None) -> dict[str, float]:
    """Microseconds of this process's processor time per request, and requests per second."""
    costs, rates = [], []
    for _ in range(ROUNDS):
        spent, began = time.process_time(), time.monotonic()
        told.send((burst, SECONDS, deadline))
        requests = told.recv() * burst
        costs.append((time.process_time() - spent) / requests * 1e6)
        rates.append(requests / (time.monotonic() - began))
    return {"cpu_us": round(statistics.median(costs), 2), "requests_per_s": round(statistics.median(rates))}


def batcher_cost(deadline: float | None) -> float:
    """Microseconds per request of the batcher alone, 32 at a time; the least of many rounds, as the rest is noise."""
    batcher = Batcher(Policy(32, BUCKETS))
    batcher.measured({size: 0.0001 + size * 1e-6 for size in BUCKETS})

    def batch() -> None:
        for _ in range(32):
            batcher.add(Waiting(1, ((64,),), 0.0, deadline))
        run = batcher.poll(0.0)
        assert isinstance(run, Run), "an idle instance never waits"
        batcher.finished(run, 0.0001)

    return round(min(timeit.repeat(batch, number=50, repeat=60)) / 50 / 32 * 1e6, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    torch.set_num_threads(1)  # as small models have it: a team waits busily where the cores are taken
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, engine(f"{folder}/engine"):
        client = context.Process(target=press, args=(f"{folder}/engine", theirs), daemon=True)
        client.start()
        measure(ours, 32, None)  # warm
        for burst in BATCHES:
            for name, deadline in (("", None), (", with deadlines", time.monotonic() + DEADLINE_S)):
                key = f"batch {burst}{name}"
                found[key] = measure(ours, burst, deadline)
                print(f"{key:<28} {found[key]['cpu_us']:7.2f} µs {found[key]['requests_per_s']:9.0f} requests/s")
        ours.send(None)
        client.join()
    alone = {"without": batcher_cost(None), "with": batcher_cost(DEADLINE_S)}
    print(f"the batcher alone: {alone['without']} µs a request, {alone['with']} µs with a deadline")
    if out is not None:
        write_results(out, {"machine": describe_machine(), "engine": found, "batcher_us": alone})


if __name__ == "__main__":
    main()
