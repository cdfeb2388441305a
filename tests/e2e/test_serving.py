"""The whole road on the demo repository: compiled once, cached, right under load, alive after a crash."""

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer

CLIENTS = 64
ZEROS = {"inputs": {"image": np.zeros((1, 1, 8, 8)).tolist()}}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz with `images`, `labels` and the eager model's `probabilities`."""
    out = tmp_path_factory.mktemp("digits") / "held_out.npz"
    subprocess.run([sys.executable, "-m", "tests.e2e.reference", "digits", str(out)], cwd=ROOT, check=True)
    return out


def run_client(protocol: str, server: RunningServer, action: str, *arguments: str) -> Any:
    address = f"127.0.0.1:{server.http_port if protocol == 'http' else server.grpc_port}"
    command = [sys.executable, "-m", "tests.e2e.clients", protocol, address, action, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_64_clients_at_once_get_every_answer_right(protocol: str, demo: RunningServer, held_out: Path) -> None:
    data = np.load(held_out)
    batches, rows = (demo.metric(f"torchere_batch_rows_{part}", model="digits") for part in ("count", "sum"))
    answers = np.array(run_client(protocol, demo, "crowd", str(held_out), str(CLIENTS)))
    np.testing.assert_allclose(answers, data["probabilities"], atol=1e-5)

    accuracy = float((answers.argmax(1) == data["labels"]).mean())
    recorded = json.loads((ROOT / "models/digits/metrics.json").read_text())
    assert accuracy == recorded["accuracy"]

    batches = demo.metric("torchere_batch_rows_count", model="digits") - batches
    rows = demo.metric("torchere_batch_rows_sum", model="digits") - rows
    assert rows == len(answers)
    assert batches < rows, "requests that arrived together ran together"
    assert demo.metric("torchere_requests_total", model="digits", protocol=protocol, outcome="success") >= rows


def test_a_second_start_compiles_nothing(demo: RunningServer, demo_models: Path, cache: Path, logs: Path) -> None:
    with RunningServer(demo_models, cache, logs) as again:
        models = again.get("/v1/models")[1]["entries"]
        assert {model["source"] for model in models} == {"cache"}
        assert again.metric("torchere_cache_requests_total", result="hit") == len(models)
        assert again.metric("torchere_cache_requests_total", result="miss") == 0
        assert again.post("/v1/models/digits/infer", json.dumps(ZEROS).encode())[0] == 200
    assert again.process.returncode == 0


def test_a_picture_of_a_cat_is_a_cat(demo: RunningServer, tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    subprocess.run([sys.executable, "-m", "tests.e2e.reference", "cat", str(picture)], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "service.cli", "infer", "efficientnet_lite0", str(picture), "--url", demo.http]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    rows = re.findall(r"│ (\D+?) +│ +(\d\.\d+) │", done.stdout)
    label, probability = rows[0]
    assert "cat" in label.lower() or "tabby" in label.lower(), done.stdout
    assert float(probability) > 0.3
    assert len(rows) == 5


def test_the_engine_comes_back_without_the_service(demo: RunningServer) -> None:
    restarts = demo.metric("torchere_process_restarts_total", process="engine")
    body = json.dumps(ZEROS).encode()
    (engine,) = demo.children("service.engine.worker")
    demo.kill("service.engine.worker")
    demo.wait_for(lambda: demo.children("service.engine.worker") not in ([], [engine]), "a new engine")
    assert demo.get("/v2/health/live")[0] == 200
    assert demo.post("/v1/models/digits/infer", body)[0] == 200, "it waits for the new engine"
    demo.wait_until_ready()
    assert demo.metric("torchere_process_restarts_total", process="engine") == restarts + 1


def test_a_frontend_comes_back_and_its_port_stays_open(demo: RunningServer) -> None:
    (frontend,) = demo.children("service.frontend")
    demo.kill("service.frontend")
    status, answer = demo.post("/v1/models/digits/infer", json.dumps(ZEROS).encode())
    assert status in (200, 503), answer  # the connection waited in the parent's socket until the successor took it
    demo.wait_until_ready()
    assert demo.children("service.frontend") != [frontend]


def test_no_torch_outside_the_engine(demo: RunningServer) -> None:
    for module in ("service.frontend", "service.observe.sidecar"):
        (pid,) = demo.children(module)
        assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text(), module
    assert "libtorch" not in Path(f"/proc/{demo.process.pid}/maps").read_text()


def test_sigterm_answers_what_was_accepted(cache: Path, logs: Path) -> None:
    """Eight requests of half a second each, one at a time: most wait when the signal comes, and all are answered.

    So is one that comes while it says already that it is not ready: load balancers look away later.
    """
    flags = ("--models", "patient", "--drain-delay-s", "2")
    with RunningServer(ROOT / "tests" / "models", cache, logs, *flags) as server:
        answers: list[tuple[int, Any]] = []
        body = json.dumps({"inputs": {"x": [[1, 2]]}}).encode()

        def ask() -> None:
            answers.append(server.post("/v1/models/patient/infer", body))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        server.wait_for(lambda: server.metric("torchere_requests_in_flight") >= len(threads) - 1, "most under way")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(lambda: server.get("/v2/health/ready")[0] == 503, "it to say that it is leaving")
        assert server.get("/v2/health/live")[0] == 200
        late = threading.Thread(target=ask)
        late.start()
        for thread in (*threads, late):
            thread.join()
        assert server.process.wait(60) == 0
    assert [status for status, _ in answers] == [200] * (len(threads) + 1), answers
    assert all(reply["outputs"] == {"output": [[2, 3]]} for _, reply in answers)


def test_a_new_request_is_refused_while_the_accepted_are_finished(cache: Path, logs: Path) -> None:
    with RunningServer(ROOT / "tests" / "models", cache, logs, "--models", "patient") as server:
        body = json.dumps({"inputs": {"x": [[1, 2]]}}).encode()
        accepted: list[tuple[int, Any]] = []

        def ask() -> None:
            accepted.append(server.post("/v1/models/patient/infer", body))

        early = [threading.Thread(target=ask) for _ in range(6)]  # three seconds of work, which leaves time to look
        for thread in early:
            thread.start()
        server.wait_for(lambda: server.metric("torchere_requests_in_flight") >= len(early) - 1, "them to be under way")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for(lambda: server.get("/v2/health/ready")[0] == 503, "it to say that it is leaving")
        status, reply = server.post("/v1/models/patient/infer", body)
        assert (status, "shutting down" in str(reply)) == (503, True)
        for thread in early:
            thread.join()
        assert [status for status, _ in accepted] == [200] * len(early)
        assert server.process.wait(60) == 0
