"""A service that is told to leave amid work takes no longer than it was given, and a second word ends it at once."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.breaking import http_request
from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer

REQUESTS, MOST = 12, 10  # of half a second each, one at a time
CUT_SHORT = 1
HEARD = "finishing what was accepted"


def children(server: RunningServer) -> list[int]:
    modules = ("service.engine.worker", "service.frontend", "service.observe.sidecar")
    return [pid for module in modules for pid in server.children(module)]


async def leave_amid_work(server: RunningServer, signals: int) -> tuple[float, list[bytes]]:
    """Seconds from the last signal to the end, and what came on each connection that waited for an answer."""
    clients = [await asyncio.open_connection("127.0.0.1", server.http_port) for _ in range(REQUESTS)]
    for _, writer in clients:
        writer.write(http_request("patient", [[1, 2]]))
    waiting = asyncio.gather(*(reader.read() for reader, _ in clients), return_exceptions=True)
    await asyncio.to_thread(server.wait_for, lambda: server.metric("torchere_requests_in_flight") >= MOST, "work")
    for number in range(signals):
        if number:
            await asyncio.to_thread(server.wait_for, lambda: HEARD in server.log(), "the first to be heard")
        server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert await asyncio.to_thread(server.process.wait, 30) == CUT_SHORT
    seconds = time.monotonic() - began
    answers = await waiting
    for _, writer in clients:
        writer.close()
    return seconds, [each if isinstance(each, bytes) else b"" for each in answers]


@pytest.mark.parametrize(("signals", "flags", "least_s"), [(2, (), 0.0), (1, ("--drain-timeout-s", "1"), 1.0)])
def test_it_ends(signals: int, flags: tuple[str, ...], least_s: float, cache: Path, logs: Path) -> None:
    """Those whose answer did not come in time see their connection end, and no process stays."""
    with RunningServer(ROOT / "tests" / "models", cache, logs, "--models", "patient", *flags) as server:
        pids = children(server)
        seconds, answers = asyncio.run(leave_amid_work(server, signals))
        assert least_s <= seconds < least_s + 3.0
        answered = sum(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        assert answered < MOST
        assert "second signal" in server.log() or signals == 1
        deadline = time.monotonic() + 5
        while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
            assert time.monotonic() < deadline, alive
            time.sleep(0.05)
