"""The sidecar adds up what several processes counted, in the asked format, and lives without torch and FastAPI."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import pytest
from click.testing import CliRunner

from service.observe.exposition import OPENMETRICS_TYPE
from service.observe.protobuf import PROTOBUF_TYPE
from service.observe.sidecar import main, publish
from service.observe.store import DIRECTORY_VARIABLE, Store
from tests.service.observe.counting import count

COUNT = """
from service.observe.store import process_store
from tests.service.observe.counting import count
count(process_store())
"""


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[WSGIServer]:
    server = publish(tmp_path, "127.0.0.1", 0)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def ask(sidecar: WSGIServer, path: str = "/metrics", **headers: str) -> tuple[int, str, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{sidecar.server_port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


def test_counts_of_all_processes_are_added_up(sidecar: WSGIServer, tmp_path: Path) -> None:
    environment = {**os.environ, DIRECTORY_VARIABLE: str(tmp_path), "PYTHONPATH": "."}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNT], env=environment, check=True)
    status, content_type, body = ask(sidecar)
    text = body.decode()
    assert (status, content_type.partition(";")[0]) == (200, "text/plain")
    assert 'torchere_requests_total{model="digits",version="1",protocol="http",outcome="success"} 2.0' in text
    assert 'nv_inference_count{model="digits",version="1"} 8.0' in text
    assert "torchere_host_memory_total_bytes " in text
    assert "torchere_requests_in_flight" not in text, "both processes have ended"


def test_the_scraper_chooses_the_format_and_may_have_it_packed(sidecar: WSGIServer, tmp_path: Path) -> None:
    store = Store(tmp_path)
    count(store)
    assert ask(sidecar, Accept=OPENMETRICS_TYPE)[1:][1].endswith(b"# EOF\n")
    assert ask(sidecar, Accept=PROTOBUF_TYPE)[1] == PROTOBUF_TYPE
    packed = ask(sidecar, **{"Accept-Encoding": "gzip"})[2]
    assert b"torchere_requests_total" in gzip.decompress(packed)


def test_it_says_that_it_lives_and_what_it_has_not(sidecar: WSGIServer, tmp_path: Path) -> None:
    assert ask(sidecar, "/live") == (200, "text/plain; charset=utf-8", b"alive\n")
    assert ask(sidecar, "/elsewhere")[0] == 404


def test_a_folder_that_went_away_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "counts"
    folder.mkdir()
    server = publish(folder, "127.0.0.1", 0)
    try:
        folder.rmdir()
        assert ask(server)[0] == 503
    finally:
        server.shutdown()
        server.server_close()


def test_a_folder_that_is_none_is_refused_with_the_remedy(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--directory", str(tmp_path / "none"), "--port", "0"])
    assert done.exit_code == 1
    assert "is no directory: name the service's --metrics-directory" in done.output


def test_it_imports_neither_torch_nor_fastapi() -> None:
    program = "import service.observe.sidecar, sys; print({'torch', 'fastapi', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
