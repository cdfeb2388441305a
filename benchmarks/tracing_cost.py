"""What watching costs a frontend: the time of one request through the HTTP lane, without engines and sockets.

    python -m benchmarks.tracing_cost

A collector is not needed: what would be sent is made into spans and thrown away, in the exporter's thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence

from service.engine.messages import Infer, Result
from service.limits import Limits
from service.observe.exporting import Exporter
from service.observe.exporting import Limits as Bounds
from service.observe.otel import Sender, make_resource
from service.observe.recorders import RequestRecorder
from service.observe.sampling import Sampler, Sampling
from service.observe.store import Store
from service.observe.watching import Watcher
from service.plane import Plane
from service.rest.infer import Asked, InferLane
from service.rest.routes import Route
from service.tensors import Buffer
from service.traced import ran_together
from tests.fakes import FakeEngines, catalog

REQUESTS, ROUNDS = 5000, 9
JSON = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","parameters":{"binary_data_size":12}}]}'
HEADERS = {b"inference-header-content-length": str(len(JSON)).encode(), b"content-type": b"application/octet-stream"}
ANSWER = memoryview(bytes(12))


class Engines(FakeEngines):
    """Answers at once; of traced requests as an engine does that ran them in a batch of four."""

    async def infer(self, message: Infer, blobs: Sequence[Buffer]) -> tuple[Result, list[memoryview]]:
        ran = ran_together([message.mark] * 4, time.monotonic())
        return Result(message.id, ((1, 3),), (12,), (9, 9, 9, 9, 9), 4, 4, ran=ran), [ANSWER]


class Nowhere:
    """An exporter that takes everything."""

    def export(self, spans: object) -> object:
        from opentelemetry.sdk.trace.export import SpanExportResult

        return SpanExportResult.SUCCESS


def make_watcher(ratio: float | None, **wanted: bool | float) -> tuple[Watcher, Exporter | None]:
    """One that traces this share of the requests; None: none."""
    watcher = Watcher(**wanted)  # type: ignore[arg-type]
    if ratio is None:
        return watcher, None
    sender = Sender(Nowhere(), make_resource(), random.getrandbits)  # type: ignore[arg-type]
    exporter = Exporter(sender, lambda outcome, requests: None, Bounds(queue=100_000, batch=1000))
    watcher.trace(Sampler(Sampling(ratio), random.getrandbits), exporter, lambda model, version: "eager fp32")
    return watcher, exporter


async def measure(lane: InferLane, exporter: Exporter | None) -> tuple[float, float]:
    """Microseconds of processor time for a request: of the event loop, and of the exporting thread beside it."""
    asked = Asked(Route("v2", "double", "1"), b"", HEADERS, JSON + bytes(12), time.monotonic())
    loop, every = time.thread_time(), time.process_time()
    for _ in range(REQUESTS):
        await lane.answer(asked)
    loop = time.thread_time() - loop
    while exporter is not None and exporter.waiting:  # noqa: ASYNC110 - a thread works, and sets no event
        await asyncio.sleep(0.1)
    every = time.process_time() - every
    return loop / REQUESTS * 1e6, (every - loop) / REQUESTS * 1e6


async def main() -> None:
    """Print the medians, measured in turn."""
    logging.getLogger().addHandler(logging.NullHandler())
    plane = Plane(Engines(), RequestRecorder(Store(None)))
    plane.catalog = catalog()
    lane = InferLane(plane, Limits())
    made = {
        "off": (None, None),
        "slow_request_ms": make_watcher(None, slow_s=60.0),
        "tracing, ratio 0": make_watcher(0.0),
        "tracing, ratio 0.01": make_watcher(0.01),
        "tracing, ratio 1": make_watcher(1.0),
    }
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, (watcher, exporter) in made.items():
            lane.watcher = watcher
            spent[name].append(await measure(lane, exporter))
    for name, found in spent.items():
        loop, beside = (sorted(each)[ROUNDS // 2] for each in zip(*found, strict=True))
        print(
            f"{name:22} {loop:6.1f} µs a request in the event loop (least {min(found)[0]:.1f}), {beside:6.1f} beside it"
        )
    for _, exporter in made.values():
        if exporter is not None:
            exporter.close()


if __name__ == "__main__":
    asyncio.run(main())
