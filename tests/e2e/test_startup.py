"""Serve at once, get faster: right answers within seconds of a first start, and a swap that no client notices."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.conftest import ROOT, copy_model
from tests.e2e.running import RunningServer

FIRST_ANSWER_S = 30.0  # a few seconds on an idle machine; what is to be told apart is the minute of a compilation
AFTER_SWAP_S = 2.0
SWAP = {"model": "digits", "from_backend": "eager", "to_backend": "torchscript"}


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz with images and the probabilities that the model in process gives them."""
    out = tmp_path_factory.mktemp("digits") / "held_out.npz"
    subprocess.run([sys.executable, "-m", "tests.e2e.reference", "digits", str(out)], cwd=ROOT, check=True)
    return out


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits alone, with one backend to compile for, so that it is known who wins."""
    folder = tmp_path_factory.mktemp("models")
    copy_model("digits", folder, "torchscript")
    return folder


class Load:
    """Clients over HTTP and gRPC, in processes of their own, from `start` to `stop`."""

    def __init__(self, server: RunningServer, held_out: Path, folder: Path) -> None:
        self._stop = folder / "stop"
        addresses = {"http": server.http_port, "grpc": server.grpc_port}
        self._clients = {
            protocol: subprocess.Popen(
                [sys.executable, "-m", "tests.e2e.load", protocol, f"127.0.0.1:{port}", str(held_out), str(self._stop)],
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            for protocol, port in addresses.items()
        }

    def stop(self) -> dict[str, dict[str, Any]]:
        """What the clients of each protocol saw."""
        self._stop.touch()
        return {
            protocol: json.loads(client.communicate(timeout=120)[0].splitlines()[-1])
            for protocol, client in self._clients.items()
        }


def first_answer(server: RunningServer, held_out: Path) -> float:
    """Seconds until the first answer, which must be right."""
    data, started = np.load(held_out), time.monotonic()
    body = json.dumps({"inputs": {"image": data["images"][:1].tolist()}}).encode()

    def answers() -> bool:
        code, reply = server.post("/v1/models/digits/infer", body)
        assert code in (0, 200, 503), reply
        return code == 200

    server.wait_for(answers, "a first answer")
    seconds = time.monotonic() - started
    answer = server.post("/v1/models/digits/infer", body)[1]["outputs"]["probabilities"]
    np.testing.assert_allclose(answer, data["probabilities"][:1], atol=1e-5)
    return seconds


def status(server: RunningServer) -> dict[str, Any]:
    return dict(server.get("/v1/models/digits")[1])


def answered(server: RunningServer) -> float:
    return server.metric("torchere_requests_total", model="digits", outcome="success")


def not_answered(server: RunningServer) -> float:
    outcomes = ("invalid", "failed", "rejected", "timeout", "cancelled")
    return sum(server.metric("torchere_requests_total", model="digits", outcome=outcome) for outcome in outcomes)


def test_serves_at_once_and_swaps_under_load_without_a_client_noticing(
    repository: Path, held_out: Path, tmp_path: Path, logs: Path
) -> None:
    cache = tmp_path / "cache"
    with RunningServer(repository, cache, logs, wait=False) as server:
        assert first_answer(server, held_out) < FIRST_ANSWER_S
        server.wait_until_ready()
        before = status(server)
        assert (before["state"], before["backend"], before["source"]) == ("READY", "eager", "fallback")
        assert (before["optimization"], before["reason"]) == ("compiling", "")
        assert server.metric("torchere_model_optimised", model="digits") == 0
        assert server.metric("torchere_model_info", model="digits", backend="eager") == 1

        otherwise = not_answered(server)
        load = Load(server, held_out, tmp_path)
        server.wait_for(lambda: answered(server) > 100, "clients on the fallback")
        assert status(server)["optimization"] == "compiling", "the clients were there before the swap"
        server.wait_for(lambda: status(server)["optimization"] == "optimised", "the swap")
        swapped_at = answered(server)
        time.sleep(AFTER_SWAP_S)
        seen = load.stop()

        for protocol, what in seen.items():
            assert what["failures"] == [], protocol
            assert (what["wrong"], what["answers"] > 0) == (0, True), protocol
        assert answered(server) > swapped_at, "there were clients after the swap"
        assert not_answered(server) == otherwise, "none ended otherwise"
        assert server.metric("torchere_swaps_total", **SWAP) == 1
        assert server.metric("torchere_fallback_total", model="digits") == 1
        assert server.metric("torchere_fallback_seconds_total", model="digits") > 0
        assert server.metric("torchere_model_optimised", model="digits") == 1
        assert server.metric("torchere_model_info", model="digits", backend="eager") == 0
        assert server.metric("torchere_model_info", model="digits", backend="torchscript") == 1
        assert server.metric("torchere_compile_seconds", model="digits", stage="build") > 0
        after = status(server)
        assert (after["backend"], after["source"], after["progress"]) == ("torchscript", "compiled", "")
        assert "torchscript fp32 serves now in place of eager fp32" in server.log()
        assert "a faster artifact is being compiled" in server.log(), "the table at the start said so"
    assert server.process.returncode == 0

    with RunningServer(repository, cache, logs) as again:
        found = status(again)
        assert (found["source"], found["backend"], found["optimization"]) == ("cache", "torchscript", "optimised")
        assert again.metric("torchere_cache_requests_total", result="miss") == 0
        assert again.metric("torchere_fallback_total") == 0
        assert first_answer(again, held_out) < FIRST_ANSWER_S


def test_an_engine_that_dies_before_the_swap_comes_back_with_what_was_current(
    repository: Path, held_out: Path, tmp_path: Path, logs: Path
) -> None:
    with RunningServer(repository, tmp_path / "cache", logs) as server:
        (engine,) = server.children("service.engine.worker")
        server.kill("service.engine.worker")
        server.wait_for(lambda: server.children("service.engine.worker") not in ([], [engine]), "a new engine")
        first_answer(server, held_out)
        server.wait_for(lambda: status(server)["optimization"] == "optimised", "the swap")
        assert (status(server)["state"], status(server)["backend"]) == ("READY", "torchscript")
        first_answer(server, held_out)
        assert server.metric("torchere_swaps_total", **SWAP) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_leaves_while_it_compiles_and_so_do_the_builders(
    repository: Path, tmp_path: Path, logs: Path, number: signal.Signals
) -> None:
    with RunningServer(repository, tmp_path / "cache", logs) as server:
        server.wait_for(lambda: server.children("compiler.builder"), "a builder")
        server.process.send_signal(number)
        builders = server.children("compiler.builder")
        assert server.process.wait(60) == 0
    assert not [pid for pid in builders if Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in server.log()


def test_wait_says_that_it_compiles_and_then_serves_the_winner(repository: Path, tmp_path: Path, logs: Path) -> None:
    with RunningServer(repository, tmp_path / "cache", logs, "--startup", "wait", wait=False) as server:
        server.wait_for(lambda: server.get("/v1/models/digits")[0] == 200, "a page")
        server.wait_for(lambda: "compiling: build" in status(server)["reason"], "a builder")
        code, reply = server.post("/v1/models/digits/infer", json.dumps({"inputs": {}}).encode())
        assert (code, "is not ready: compiling" in reply["error"]) == (503, True)
        assert server.get("/v2/health/ready")[0] == 503
        server.wait_until_ready()
        assert (status(server)["backend"], status(server)["source"]) == ("torchscript", "compiled")
        assert server.metric("torchere_fallback_total") == server.metric("torchere_swaps_total") == 0
