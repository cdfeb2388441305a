"""A closed-loop load: so many connections, each sending its next request when the last one is answered.

    python -m benchmarks.client http 127.0.0.1:8000 /v2/models/mlp/infer BODY_FILE JSON_SIZE CONCURRENCY SECONDS
    python -m benchmarks.client grpc 127.0.0.1:8001 - BODY_FILE 0 CONCURRENCY SECONDS

Runs in a process of its own, on bare sockets, so that it costs little beside what it measures; prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio
import uvloop

WARM_UP_S = 1.0
METHOD = "/inference.GRPCInferenceService/ModelInfer"

Ask = Callable[[], Awaitable[bool]]


async def http_asker(address: str, path: str, body: bytes, json_size: int) -> Ask:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    sized = f"Inference-Header-Content-Length: {json_size}\r\n" if json_size else "Content-Type: application/json\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{sized}Content-Length: {len(body)}\r\n\r\n".encode()
    request = head + body

    async def ask() -> bool:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        at = answer.lower().index(b"\r\ncontent-length: ") + 18  # not the Inference-Header-Content-Length
        await reader.readexactly(int(answer[at : answer.index(b"\r\n", at)]))
        return answer.startswith(b"HTTP/1.1 200")

    return ask


async def grpc_asker(address: str, body: bytes) -> Ask:
    call = grpc.aio.insecure_channel(address).unary_unary(METHOD)

    async def ask() -> bool:
        try:
            await call(body)
        except grpc.aio.AioRpcError:
            return False
        return True

    return ask


async def load(askers: list[Ask], seconds: float) -> dict[str, float]:
    """Requests per second and latencies (seconds) after the warm-up; failures are counted, not hidden."""
    begin = time.perf_counter() + WARM_UP_S
    end = begin + seconds
    latencies: list[float] = []
    failures = 0

    async def work(ask: Ask) -> None:
        nonlocal failures
        while (started := time.perf_counter()) < end:
            is_right = await ask()
            if started >= begin:
                latencies.append(time.perf_counter() - started)
                failures += not is_right

    cpu = time.process_time()
    await asyncio.gather(*map(work, askers))
    latencies.sort()
    return {
        "requests_per_s": round(len(latencies) / seconds, 1),
        "p50_ms": round(1e3 * latencies[len(latencies) // 2], 3),
        "p99_ms": round(1e3 * latencies[int(len(latencies) * 0.99)], 3),
        "failures": failures,
        "client_cpu_us_per_request": round(1e6 * (time.process_time() - cpu) / max(len(latencies), 1), 1),
    }


async def main(
    protocol: str, address: str, path: str, body: bytes, *, json_size: int, count: int, seconds: float
) -> None:
    """Open the connections, put the load on, print what came of it."""
    makers = [
        http_asker(address, path, body, json_size) if protocol == "http" else grpc_asker(address, body)
        for _ in range(count)
    ]
    print(json.dumps(await load([await maker for maker in makers], seconds)))


if __name__ == "__main__":
    _, kind, server, route, file, header, connections, length = sys.argv
    content = Path(file).read_bytes()
    uvloop.run(main(kind, server, route, content, json_size=int(header), count=int(connections), seconds=float(length)))
