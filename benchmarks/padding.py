"""What padding texts into shared batches brings: processor time of a text, with `batching.pad` and without.

    python -m benchmarks.padding [--out benchmarks/results/padding.json]

A served model in this process, an encoder on one thread, gets texts of log-normal lengths (median 20, at most 128), 32
at a time. Told is the processor time of the whole process for each text, the least of several rounds, by turns.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compiler.manifest import PaddedTime
from compiler.spec import Padding, TensorSpec
from service.bench.results import describe_machine, write_results
from service.engine.messages import Failure, Infer, Result
from service.engine.models import ServedModel
from service.engine.served import Pending
from service.repository.model_config import Batching
from service.runtime.device import Device
from service.runtime.runner import Runner
from tests.fakes import FakeBatchCounter, entry

LENGTHS, BUCKETS = (16, 32, 64, 128), (1, 2, 4, 8, 16, 32)
AT_ONCE, ROUNDS, TRIES = 32, 5, 3
ENCODERS = ((32, 1, 2000), (128, 2, 600))  # width, layers, texts in a round
WORDS = 1000
INPUTS = (TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mask", "INT64", (-1, -1)))
OUTPUTS = (TensorSpec("logits", "FP32", (-1, 10)),)
PAD = Padding({"length": LENGTHS}, {"ids": {1: "length"}, "mask": {1: "length"}}, masks=("mask",))


class Encoder(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tokens, hidden = self.embed(ids), torch.zeros(mask.shape).masked_fill(mask == 0, float("-inf"))
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=hidden)
        weights = mask[:, :, None].float()
        found: torch.Tensor = self.head((tokens * weights).sum(1) / weights.sum(1))
        return found


class Client:
    """Lets AT_ONCE requests be under way, and knows when all have been answered."""

    def __init__(self, requests: int) -> None:
        self.room, self.is_over = threading.Semaphore(AT_ONCE), threading.Event()
        self._left = requests

    def send(self, answers: Sequence[tuple[Result | Failure, Sequence[memoryview]]]) -> None:
        for message, _ in answers:
            assert isinstance(message, Result), message
            self._left -= 1
            self.room.release()
        if not self._left:
            self.is_over.set()


def measure(model: Encoder, texts: int, batching: Batching, times: Sequence[PaddedTime]) -> dict[str, float]:
    """One round."""
    described = entry(inputs=INPUTS, outputs=OUTPUTS, max_batch_size=BUCKETS[-1], buckets=BUCKETS, batching=batching)
    counter, client, device = FakeBatchCounter(), Client(texts), Device("cpu", threads=1)
    runner = Runner(lambda inputs: (model(*inputs),), device, INPUTS, OUTPUTS)
    served = ServedModel(described, [runner], device, counter)
    served.plan_by({}, times)
    served.start(print)
    draw = np.random.default_rng(0)
    lengths = np.clip(np.rint(draw.lognormal(np.log(20), 0.6, texts)), 1, LENGTHS[-1]).astype(int)
    began = time.process_time()
    for identity, length in enumerate(lengths):
        client.room.acquire()
        ids, mask = draw.integers(0, WORDS, (1, length)), np.ones((1, length), np.int64)
        message = Infer(identity, "double", "1", 1, (ids.shape, mask.shape), (ids.nbytes, mask.nbytes))
        tensors = [memoryview(ids.tobytes()), memoryview(mask.tobytes())]
        served.submit(Pending(message, tensors, client), time.monotonic())
    client.is_over.wait()
    spent = time.process_time() - began
    served.close()
    own, padding = (sum(column) for column in zip(*counter.elements or [(1, 0)], strict=True))
    return {
        "cpu_us": 1e6 * spent / texts,
        "rows": sum(rows for rows, _ in counter.batches) / len(counter.batches),
        "padding": padding / (own + padding),
    }


def time_shapes(model: Encoder) -> list[PaddedTime]:
    """What the race would find."""
    found = []
    for length in LENGTHS:
        for rows in BUCKETS:
            ids = torch.randint(0, WORDS, (rows, length))
            least = float("inf")
            for _ in range(TRIES):
                began = time.perf_counter()
                with torch.inference_mode():
                    model(ids, torch.ones_like(ids))
                least = min(least, time.perf_counter() - began)
            found.append(PaddedTime(rows, (length,), 1e3 * least))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results: dict[str, Any] = {}
    for width, layers, texts in ENCODERS:
        model = Encoder(width, layers).eval()
        times = time_shapes(model)
        ways: dict[str, tuple[Batching, Sequence[PaddedTime]]] = {
            "not padded": (Batching(), ()),
            "equal sizes": (Batching(pad=PAD), ()),
            "joined by times": (Batching(pad=PAD), times),
        }
        rounds = [{way: measure(model, texts, *given) for way, given in ways.items()} for _ in range(ROUNDS)]
        for way in ways:
            best = min((each[way] for each in rounds), key=lambda found: found["cpu_us"])
            results[f"{layers}x{width} {way}"] = best
            print(
                f"{layers} layers of {width}, {way:16} {best['cpu_us']:6.0f} µs a text, {best['rows']:4.1f} rows, "
                f"{100 * best['padding']:3.0f} % padding"
            )
    if out is not None:
        write_results(out, {"machine": describe_machine(), "padding": results})


if __name__ == "__main__":
    main()
