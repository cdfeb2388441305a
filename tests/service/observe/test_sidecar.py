"""The sidecar merges what several processes counted, and lives without torch and FastAPI."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from service.observe.sidecar import publish

COUNT = """
from service.observe.metrics import EngineMetrics, RequestMetrics
requests = RequestMetrics()
requests.finished("digits", "1", "http", "success", 0.002, 3)
requests.finished("digits", "1", "http", "invalid", 0.001, 0)
engine = EngineMetrics("digits", "1")
engine.batch([1000, 2000], (1, 2, 3, 4), rows=3, bucket=4)
engine.depth(5)
"""


def scraped(directory: Path) -> str:
    server = publish(directory, "127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    finally:
        server.shutdown()
        server.server_close()


def test_counts_of_all_processes_are_added_up(tmp_path: Path) -> None:
    for _ in range(2):
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", COUNT], env=environment, check=True)
    text = scraped(tmp_path)
    labels = 'model="digits",outcome="success",protocol="http",version="1"'
    assert f"torchere_requests_total{{{labels}}} 2.0" in text
    assert 'torchere_rows_total{model="digits",protocol="http",version="1"} 6.0' in text
    assert 'torchere_request_seconds_bucket{le="0.0025",model="digits",protocol="http",version="1"} 2.0' in text
    assert 'torchere_batch_rows_bucket{le="3.0",model="digits",version="1"} 2.0' in text
    assert 'torchere_padding_rows_total{model="digits",version="1"} 2.0' in text
    assert 'torchere_phase_seconds_count{model="digits",phase="queue",version="1"} 4.0' in text


def test_it_imports_neither_torch_nor_fastapi() -> None:
    program = "import service.observe.sidecar, sys; print({'torch', 'fastapi', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
