"""Measures whether a service's memory grows under mixed load: the slope of each process's resident memory.

    python -m benchmarks.growth --url http://127.0.0.1:8000 --pid $(pgrep -f 'torchere serve' | head -1) --minutes 10

Right requests, wrong ones and clients that leave, on new and on kept connections, to the first model that is ready. The
first quarter is left out: allocators fill their pools. Knows nothing of the service but its protocol and its processes.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

PAGE_BYTES = 4096
EVERY_S = 1.0
SETTLING = 0.25  # of the samples


def resident_mib(pid: int) -> float:
    """What the process holds of the machine's memory; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20
    except OSError:
        return 0.0


def family(pid: int) -> dict[int, str]:
    """The process and its children, by what they run."""
    found = {pid: "parent"}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                words = (stat.parent / "cmdline").read_bytes().decode().split("\0")
                found[int(stat.parent.name)] = next((word for word in words if word.startswith("service.")), "child")
        except OSError:
            continue  # it ended meanwhile
    return found


class Load(threading.Thread):
    """One client that sends whatever comes to its mind until it is told to stop."""

    def __init__(self, url: str, model: str, body: bytes, stop: threading.Event, seed: int) -> None:
        super().__init__(daemon=True)
        self.count = 0
        self._address = (urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 80)
        self._path = f"/v2/models/{model}/infer"
        self._body = body
        self._stop = stop
        self._chance = random.Random(seed)

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        while not self._stop.is_set():
            draw = self._chance.random()
            if draw < 0.02:
                self._leave()
            elif draw < 0.04:
                connection.close()
            wrong = self._body[: self._chance.randrange(len(self._body))]
            try:
                connection.request("POST", self._path, self._body if draw < 0.8 else wrong)
                connection.getresponse().read()
                self.count += 1
            except (OSError, http.client.HTTPException):
                connection.close()

    def _leave(self) -> None:
        with socket.create_connection(self._address, timeout=30) as left:
            head = f"POST {self._path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(self._body)}\r\n\r\n".encode()
            left.sendall(head + self._body[: self._chance.choice([0, 10, len(self._body)])])


def example(url: str) -> tuple[str, bytes]:
    """A ready model with a right request: the server's own example of it."""
    address = (urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 80)
    connection = http.client.HTTPConnection(*address, timeout=30)
    connection.request("GET", "/openapi.json")
    document = json.loads(connection.getresponse().read())
    for path, operations in document["paths"].items():
        if path.startswith("/v2/models/") and path.endswith("/infer") and "{" not in path:
            content = operations["post"]["requestBody"]["content"]["application/json"]
            return path.split("/")[3], json.dumps(content["example"]).encode()
    raise SystemExit("no model of this server is ready")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, required=True, help="of the service's parent process")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    model, body = example(given.url)
    stop, processes = threading.Event(), family(given.pid)
    clients = [Load(given.url, model, body, stop, seed) for seed in range(given.clients)]
    for client in clients:
        client.start()
    began, samples = time.monotonic(), []
    while time.monotonic() < began + 60 * given.minutes:
        time.sleep(EVERY_S)
        samples.append([time.monotonic() - began, *map(resident_mib, processes)])
    stop.set()
    kept = np.array(samples[int(SETTLING * len(samples)) :])
    count = sum(client.count for client in clients)
    print(f"{model}: {count} requests in {given.minutes:g} min, {count / (60 * given.minutes):.0f}/s")
    print("| process | MiB at the end | growth, MiB/h | bytes per request |")
    print("|---|---|---|---|")
    for column, name in enumerate(processes.values(), start=1):
        slope = float(np.polyfit(kept[:, 0], kept[:, column], 1)[0])
        per_request = slope * 2**20 / (count / (60 * given.minutes))
        print(f"| {name} | {kept[-1, column]:.1f} | {3600 * slope:+.1f} | {per_request:+.2f} |")


if __name__ == "__main__":
    main()
