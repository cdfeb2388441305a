"""Models come, change and go while clients infer: on a client's word, and as the repository changes."""

from __future__ import annotations

import base64
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client.rpc import RpcClient
from tests.e2e.running import RunningServer
from tests.e2e.times import CONFIG, code, write

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}


def infer(server: RunningServer, model: str, version: str = "") -> tuple[int, Any]:
    path = f"/v2/models/{model}/versions/{version}/infer" if version else f"/v2/models/{model}/infer"
    status, answer = server.post(path, json.dumps(BODY).encode())
    return status, answer["outputs"][0]["data"] if status == 200 else answer


def call(server: RunningServer, path: str, **parameters: Any) -> tuple[int, Any]:
    return server.post(f"/v2/repository/{path}", json.dumps({"parameters": parameters}).encode())


def index(server: RunningServer) -> dict[str, tuple[str, str]]:
    _, entries = server.post("/v2/repository/index", b"{}")
    return {f"{each['name']}/{each['version']}": (each["state"], each["reason"]) for each in entries}


class Crowd:
    """Clients that infer without a pause; `stop()` gives every answer that was not a 200, and all values seen."""

    def __init__(self, server: RunningServer, model: str, clients: int = 4) -> None:
        self.failures: list[tuple[int, Any]] = []
        self.values: set[float] = set()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, model)) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self, server: RunningServer, model: str) -> None:
        while not self._is_over.is_set():
            status, answer = infer(server, model)
            if status == 200:
                self.values.add(answer[0])
            else:
                self.failures.append((status, answer))
            time.sleep(0.002)

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explicit")
    for name in ("first", "other"):
        write(folder, name, 1, 2)
    return folder


@pytest.fixture(scope="module")
def explicit(repository: Path, cache: Path, logs: Path) -> Iterator[RunningServer]:
    flags = ("--model-control-mode", "explicit", "--load-model", "other", "--frontends", "2", "--trust-uploads")
    with RunningServer(repository, cache, logs, *flags) as server:
        yield server


def test_only_what_was_asked_for_is_loaded_at_the_start(explicit: RunningServer) -> None:
    assert index(explicit) == {
        "first/1": ("UNAVAILABLE", "not loaded: nothing has asked for it"),
        "other/1": ("READY", ""),
    }
    assert infer(explicit, "other") == (200, [2, 4])
    assert infer(explicit, "first")[0] == 503


def test_a_model_is_loaded_changed_and_unloaded_and_no_client_notices_more_than_it_must(
    explicit: RunningServer, repository: Path
) -> None:
    assert call(explicit, "models/first/load") == (200, {})
    assert infer(explicit, "first") == (200, [2, 4]), "at once, whichever frontend is asked"
    beside, crowd = Crowd(explicit, "other", 1), Crowd(explicit, "first")
    write(repository, "first", 1, 3)
    assert call(explicit, "models/first/load") == (200, {})
    assert infer(explicit, "first") == (200, [3, 6])
    (repository / "first/1/model.py").write_text("def create_model(): raise ValueError('on the moon')\n")
    status, answer = call(explicit, "models/first/load")
    assert (status, "what served before serves on" in answer["error"]) == (400, True)
    assert str(repository) not in answer["error"]
    assert infer(explicit, "first") == (200, [3, 6])
    write(repository, "first", 1, 4, CONFIG.replace("max_batch_size: 8", "max_batch_size: 4"))
    assert call(explicit, "models/first/load") == (200, {})
    assert explicit.get("/v2/models/first/config")[1]["max_batch_size"] == 4
    assert infer(explicit, "first") == (200, [4, 8])
    assert explicit.get("/v2/health/ready")[0] == 200
    crowd.stop()
    assert crowd.failures == []
    assert crowd.values == {2, 3, 4}
    assert call(explicit, "models/first/unload", unload_dependents=True) == (200, {})
    assert infer(explicit, "first")[0] == 503
    assert index(explicit)["first/1"] == ("UNAVAILABLE", "unloaded")
    assert explicit.get("/v2/health/ready")[0] == 200, "nobody waits for what was unloaded"
    beside.stop()
    assert beside.failures == []


def test_configuration_and_files_come_with_the_call_and_never_reach_the_repository(
    explicit: RunningServer, repository: Path
) -> None:
    write(repository, "first", 1, 5)
    before = sorted(path for path in repository.rglob("*"))
    config = {"max_batch_size": 2, "instance_group": [{"count": 2, "kind": "KIND_CPU"}], "dynamic_batching": {}}
    assert call(explicit, "models/first/load", config=json.dumps(config)) == (200, {})
    _, loaded = explicit.get("/v2/models/first/config")
    assert (loaded["max_batch_size"], loaded["instance_group"][0]["count"]) == (2, 2)
    assert infer(explicit, "first") == (200, [5, 10])
    program = base64.b64encode(code(7).encode()).decode()
    described = base64.b64encode(CONFIG.encode()).decode()
    files = {"file:1/model.py": program, "file:model.yaml": described}
    assert call(explicit, "models/first/load", config="{}", **files) == (200, {})
    assert infer(explicit, "first") == (200, [7, 14])
    assert call(explicit, "models/first/load", config='{"max_batch_size": -1}')[0] == 400
    assert infer(explicit, "first") == (200, [7, 14])
    assert sorted(path for path in repository.rglob("*")) == before
    assert call(explicit, "models/first/load") == (200, {}), "without files: as the repository has it"
    assert infer(explicit, "first") == (200, [5, 10])
    assert call(explicit, "models/nobody/load")[0] == 404


def test_versions_and_labels_follow_the_policy(explicit: RunningServer, repository: Path) -> None:
    policy = "version_policy: {latest: 2}\nversion_labels: {stable: 1}\n"
    write(repository, "other", 2, 20, CONFIG + policy)
    assert call(explicit, "models/other/load") == (200, {})
    assert infer(explicit, "other") == (200, [20, 40]), "the highest is the default"
    assert infer(explicit, "other", "1") == (200, [2, 4])
    assert infer(explicit, "other", "stable") == (200, [2, 4])
    write(repository, "other", 3, 30, CONFIG + policy.replace("stable: 1", "stable: 2"))
    crowd = Crowd(explicit, "other", 2)
    assert call(explicit, "models/other/load") == (200, {})
    crowd.stop()
    assert crowd.failures == []
    assert infer(explicit, "other") == (200, [30, 60])
    assert infer(explicit, "other", "stable") == (200, [20, 40])
    assert infer(explicit, "other", "1")[0] == 404
    assert set(index(explicit)) == {"first/1", "other/2", "other/3"}


ENSEMBLE = """
ensemble:
  steps:
    - {model: after, inputs: {x: middle}, outputs: {y: y}}
    - {model: before, inputs: {x: x}, outputs: {y: middle}}
"""


def test_an_ensemble_serves_on_while_its_models_change(explicit: RunningServer, repository: Path) -> None:
    write(repository, "before", 1, 2)
    write(repository, "after", 1, 10)
    (repository / "chain").mkdir()
    (repository / "chain/model.yaml").write_text(ENSEMBLE)
    assert call(explicit, "models/chain/load") == (200, {})
    assert [index(explicit)[f"{name}/1"] for name in ("after", "before", "chain")] == [("READY", "")] * 3
    assert infer(explicit, "chain") == (200, [20, 40])
    with RpcClient(f"127.0.0.1:{explicit.grpc_port}") as client:
        answer = client.infer("chain", {"x": np.array([[1, 2]], np.float32)})
    assert answer["y"].tolist() == [[20, 40]]
    assert explicit.get("/v2/models/chain")[1]["platform"] == "ensemble"
    _, config = explicit.get("/v2/models/chain/config")
    assert [step["model_name"] for step in config["ensemble_scheduling"]["step"]] == ["before", "after"]
    crowd = Crowd(explicit, "chain")
    write(repository, "before", 1, 3, CONFIG.replace("max_batch_size: 8", "max_batch_size: 4"))
    assert call(explicit, "models/before/load") == (200, {})
    assert infer(explicit, "chain") == (200, [30, 60])
    explicit.wait_for(lambda: explicit.get("/v2/models/chain/config")[1]["max_batch_size"] == 4, "fewer rows")
    write(repository, "after", 2, 100)
    assert call(explicit, "models/after/load") == (200, {})
    assert infer(explicit, "chain") == (200, [300, 600])
    crowd.stop()
    assert crowd.failures == []
    assert crowd.values == {20, 30, 300}
    counted = explicit.get("/v2/models/chain/stats")[1]["model_stats"][0]["inference_stats"]
    assert len({counted[phase]["count"] for phase in ("compute_input", "compute_infer", "compute_output")}) == 1
    assert counted["success"]["count"] == counted["compute_infer"]["count"] > 0
    assert call(explicit, "models/before/unload") == (200, {})
    status, answer = infer(explicit, "chain")
    assert (status, "its model 'before' version 1 is unavailable: unloaded" in answer["error"]) == (503, True)
    assert call(explicit, "models/chain/unload", unload_dependents=True) == (200, {})
    states = {name: state for name, (state, _) in index(explicit).items()}
    assert (states["chain/1"], states["before/1"]) == ("UNAVAILABLE", "UNAVAILABLE")
    assert states["after/2"] == "READY", "a client asked for it"


def test_the_service_follows_its_repository(tmp_path: Path, cache: Path, logs: Path) -> None:
    write(tmp_path, "kept", 1, 2)
    with RunningServer(
        tmp_path, cache, logs, "--model-control-mode", "poll", "--poll-interval-s", "0.3", "--frontends", "2"
    ) as server:
        assert call(server, "models/kept/load")[0] == 501
        crowd = Crowd(server, "kept", 2)
        write(tmp_path, "kept", 2, 3)
        write(tmp_path, "came", 1, 4)
        server.wait_for(lambda: infer(server, "kept") == (200, [3, 6]), "the new version")
        server.wait_for(lambda: infer(server, "came") == (200, [4, 8]), "the new model")
        server.wait_for(lambda: infer(server, "kept", "1")[0] == 404, "the old version to go")
        (tmp_path / "kept" / "model.yaml").write_text("max_batch_size: many\n")
        server.wait_for(lambda: "model kept has changed" in server.log(), "the mistake to be told")
        assert infer(server, "kept") == (200, [3, 6])
        crowd.stop()
        assert crowd.failures == []
        shutil.rmtree(tmp_path / "came")
        server.wait_for(lambda: infer(server, "came")[0] == 404, "the model to go")
        assert server.get("/v2/health/ready")[0] == 200
