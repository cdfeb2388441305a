"""The Serve config of a repository: what is deployed, how it grows, and that it takes what the program takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from service.cli import main
from service.ray_serve.plan import IMPORT_PATH, INGRESS, Wishes, serve_config
from service.repository.model_config import MODEL_NAME, Batching, ModelConfig
from service.repository.scheduling import Ensemble, EnsembleStep, Sequencing
from service.settings import Settings

MODELS = Path(__file__).parents[2] / "models"
DEFAULTS = Wishes()
SETTINGS = Settings(model_repository=Path("/models"), cache_dir=Path("/cache"), drain_timeout_s=20)


def deployments(*models: ModelConfig, wishes: Wishes = DEFAULTS) -> dict[str, dict[str, Any]]:
    (application,) = serve_config(models, SETTINGS, wishes)["applications"]
    return {each["name"]: each for each in application["deployments"]}


def test_a_deployment_for_each_model_and_one_before_them() -> None:
    config = serve_config([ModelConfig("a"), ModelConfig("b")], SETTINGS, Wishes())
    (application,) = config["applications"]
    assert application["args"]["models"] == ["a", "b"]
    assert [each["name"] for each in application["deployments"]] == [INGRESS, "a", "b"]
    assert not MODEL_NAME.fullmatch(INGRESS), "no model can have its name"


def test_replicas_are_let_have_what_fills_their_batches() -> None:
    model = ModelConfig("m", max_batch_size=32, instances=2, batching=Batching(max_queue_size=99))
    found = deployments(model)["m"]
    assert found["autoscaling_config"]["target_ongoing_requests"] == 64
    assert found["max_ongoing_requests"] == 128
    assert found["max_queued_requests"] == 99


def test_a_model_without_batches_grows_by_its_instances() -> None:
    found = deployments(ModelConfig("m", max_batch_size=0, instances=3))["m"]
    assert found["autoscaling_config"]["target_ongoing_requests"] == 3


def test_what_was_wished_for_is_there() -> None:
    wishes = Wishes(min_replicas=2, max_replicas=9, cpus=4, gpus=0.25, target=300, ingresses=5)
    found = deployments(ModelConfig("m"), wishes=wishes)
    scaling = found["m"]["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"], scaling["target_ongoing_requests"]) == (2, 9, 300)
    assert found["m"]["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 0.25}
    assert found["m"]["max_ongoing_requests"] >= 300, "or Ray would never see so many"
    assert found[INGRESS]["num_replicas"] == 5


def test_a_model_with_state_has_one_replica_and_so_has_what_calls_it() -> None:
    def calls(name: str, model: str) -> ModelConfig:
        return ModelConfig(name, ensemble=Ensemble((EnsembleStep(model, {}, {}),)))

    models = [calls("outer", "inner"), calls("inner", "total"), ModelConfig("total", sequencing=Sequencing())]
    found = deployments(*models, calls("free", "plain"), ModelConfig("plain"))
    for name in ("outer", "inner", "total"):
        assert found[name]["num_replicas"] == 1
        assert "autoscaling_config" not in found[name]
    assert all("autoscaling_config" in found[name] for name in ("free", "plain"))


def test_there_is_time_to_drain() -> None:
    assert all(each["graceful_shutdown_timeout_s"] > 20 for each in deployments(ModelConfig("m")).values())


def test_the_command_writes_what_the_application_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(MODELS)
    flags = ["--models", "affine", "--models", "total", "--cache-dir", "cache", "--trust", "--grpc-port", "9001"]
    flags += ["--access-log", "--tracing", "--trace-endpoint", "http://collector:4317", "--token-file", "tokens"]
    done = CliRunner().invoke(main, ["deploy", "ray", *flags, "--gpus", "0.5", "--output", "serve.yaml"])
    assert done.exit_code == 0, done.output
    config = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    (application,) = config["applications"]
    assert application["import_path"] == IMPORT_PATH
    settings = Settings.model_validate(application["args"]["settings"])
    assert (settings.cache_dir, settings.trust, settings.grpc_port) == (tmp_path / "cache", True, 9001)
    assert settings.model_repository == tmp_path / "models", "nodes have other working directories"
    assert settings.token_file == tmp_path / "tokens"
    assert (settings.tracing, settings.access_log) == (True, True)
    assert config["logging_config"]["enable_access_log"] is False, "Ray's own knows no request"
    assert settings.host == config["http_options"]["host"] == "0.0.0.0"
    assert application["args"]["models"] == ["affine", "total"]


def test_a_broken_model_is_left_out_and_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["deploy", "ray", "--model-repository", str(MODELS)])
    assert done.exit_code == 0
    assert "left out: model typo: " in done.stderr
    (application,) = yaml.safe_load(done.stdout)["applications"]
    assert "typo" not in application["args"]["models"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--min-replicas", "3", "--max-replicas", "2"], "--max-replicas 2 is below --min-replicas 3: raise the one"),
        (["--models", "afine"], "has no model 'afine': did you mean 'affine'?"),
        (["--gpus", "2"], "2.0 is not in the range 0<=x<=1"),
    ],
)
def test_what_cannot_be_is_refused(flags: list[str], sentence: str) -> None:
    done = CliRunner().invoke(main, ["deploy", "ray", "--model-repository", str(MODELS), *flags])
    assert done.exit_code != 0
    assert sentence in done.output
