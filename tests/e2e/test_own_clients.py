"""torchere's own clients and command line against a running service."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client.rest import RestClient
from service.client.rpc import RpcClient
from service.errors import ExecutionFailed, InvalidInput, NotFound, Unavailable
from tests.e2e.conftest import ROOT
from tests.e2e.running import RunningServer, free_ports


@pytest.fixture(params=["rest", "rpc"])
def client(request: pytest.FixtureRequest, zoo: RunningServer) -> Any:
    made = RestClient(zoo.http) if request.param == "rest" else RpcClient(f"127.0.0.1:{zoo.grpc_port}")
    with made:
        yield made


def test_arrays_in_arrays_out(client: Any) -> None:
    assert client.is_ready()
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    answer = client.infer("affine", {"x": x, "y": x + 1})
    np.testing.assert_array_equal(answer["sum"], 2 * x + 1)
    np.testing.assert_array_equal(answer["scaled"], 2 * x)
    np.testing.assert_array_equal(client.infer("affine_twice", {"x": x, "y": x + 1})["z"], 4 * x + 1)


def test_errors_are_of_the_same_tree_as_the_servers(client: Any) -> None:
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(NotFound, match="unknown model 'afine': did you mean 'affine'"):
        client.infer("afine", {"x": x})
    with pytest.raises(InvalidInput, match="missing input 'y'"):
        client.infer("affine", {"x": x})
    with pytest.raises(ExecutionFailed, match="a value is negative"):
        client.infer("poison", {"x": -np.ones((1, 2), np.float32)})
    with pytest.raises(Unavailable, match="the weights are on the moon"):
        client.infer("broken", {"x": np.ones((1, 2), np.float32)})


def test_nobody_there_is_said_with_the_remedy() -> None:
    with (
        pytest.raises(Unavailable, match="is `torchere serve` running there"),
        RestClient("http://127.0.0.1:9") as client,
    ):
        client.is_ready()


def torchere(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


def test_models_shows_every_state_and_reason(zoo: RunningServer) -> None:
    done = torchere("models", "--url", zoo.http, "--json")
    models = {model["name"]: model for model in json.loads(done.stdout)}
    assert models["affine"]["state"] == "READY"
    assert "the weights are on the moon" in models["broken"]["reason"]
    assert "model.yaml:1: unknown key 'max_batchsize': did you mean 'max_batch_size'" in models["typo"]["reason"]
    assert "affine" in torchere("models", "--url", zoo.http).stdout


def test_infer_from_a_json_file(zoo: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text(json.dumps({"inputs": {"x": [[1, 5]]}}))
    assert '"y": [[2.0, 6.0]]' in torchere(
        "infer", "poison", str(file), "--url", zoo.http, "--top", "0"
    ).stdout.replace("input.json y: ", '"y": ')
    assert "right" in torchere("infer", "poison", str(file), "--url", zoo.http).stdout


def test_infer_says_what_is_wrong(zoo: RunningServer, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text("{}")
    done = torchere("infer", "affine", str(file), "--url", zoo.http)
    assert done.returncode == 1
    assert '{"inputs": {"x": [...], "y": [...]}}' in done.stderr


def test_a_port_in_use_is_told_before_anything_starts(zoo: RunningServer, cache: Path) -> None:
    http, grpc = free_ports(2)
    ports = ("--http-port", str(http), "--grpc-port", str(grpc), "--metrics-port", str(zoo.metrics_port))
    done = torchere("serve", "--model-repository", "tests/models", "--cache-dir", str(cache), *ports)
    assert done.returncode == 1
    assert "choose another with --metrics-port" in done.stderr


def test_a_repository_that_is_not_there_is_told(tmp_path: Path) -> None:
    ports = [str(port) for port in free_ports(3)]
    flags = ("--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2])
    done = torchere("serve", "--model-repository", str(tmp_path / "nowhere"), *flags)
    assert done.returncode == 1
    assert "does not exist" in done.stderr


def test_compile_ahead_and_look_after_the_cache(tmp_path: Path) -> None:
    flags = ("--model-repository", "tests/models", "--cache-dir", str(tmp_path))
    first = torchere("compile", "affine", *flags)
    assert first.returncode == 0, first.stderr
    assert "compiled in" in first.stdout
    assert "torchscript" in first.stdout
    assert "from the cache in" in torchere("compile", "affine", *flags).stdout
    assert "1 artifact," in torchere("cache", "list", "--cache-dir", str(tmp_path)).stdout
    assert "1 of 1 artifact sound" in torchere("cache", "verify", "--cache-dir", str(tmp_path)).stdout

    (artifact,) = (folder for folder in tmp_path.iterdir() if (folder / "manifest.json").exists())
    victim = next(file for file in sorted(artifact.iterdir()) if file.name != "manifest.json" and file.is_file())
    victim.write_bytes(victim.read_bytes() + b"x")
    broken = torchere("cache", "verify", "--cache-dir", str(tmp_path))
    assert (broken.returncode, "is not the file that was built" in broken.stdout) == (1, True)
    assert "compiled in" in torchere("compile", "affine", *flags).stdout, "what was tampered with is built again"
    assert "removed 2 artifacts" in torchere("cache", "prune", "--cache-dir", str(tmp_path)).stdout, (
        "and what was set aside"
    )


def test_compile_says_which_model_failed_and_goes_on(tmp_path: Path) -> None:
    done = torchere("compile", "broken", "affine", "--model-repository", "tests/models", "--cache-dir", str(tmp_path))
    assert done.returncode == 1
    assert "the weights are on the moon" in done.stdout
    assert "affine 1  " in done.stdout, "the ladder of the other"


def test_a_device_that_is_not_there_is_told() -> None:
    ports = [str(port) for port in free_ports(3)]
    flags = ("--http-port", ports[0], "--grpc-port", ports[1], "--metrics-port", ports[2])
    done = torchere("serve", "--model-repository", "tests/models", "--device", "cuda:63", *flags)
    assert done.returncode == 1
    assert "there is no device 'cuda:63' here" in done.stderr
    assert "there is no device 'cuda:63' here" in torchere("compile", "--device", "cuda:63").stdout


def test_several_frontends_share_the_ports_and_lose_only_their_own_connections(cache: Path, logs: Path) -> None:
    with RunningServer(ROOT / "tests/models", cache, logs, "--models", "affine", "--frontends", "2") as server:
        assert len(server.children("service.frontend")) == 2
        x = np.ones((1, 4), np.float32)

        def ask_all() -> None:
            for _ in range(8):  # a new connection each time: the kernel spreads them
                with RestClient(server.http) as rest, RpcClient(f"127.0.0.1:{server.grpc_port}") as rpc:
                    for client in (rest, rpc):
                        np.testing.assert_array_equal(client.infer("affine", {"x": x, "y": x})["sum"], 2 * x)

        ask_all()
        server.kill("service.frontend")
        server.wait_for(lambda: server.metric("torchere_process_restarts_total", process="frontend") == 2, "restarts")
        server.wait_for(lambda: len(server.children("service.frontend")) == 2, "two frontends")
        server.wait_until_ready()
        ask_all()
    assert server.process.returncode == 0
