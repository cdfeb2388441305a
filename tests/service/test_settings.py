"""Settings: which source wins, what is refused and how, flags, and the page that documents them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from service.cores import available_cores, read_quota
from service.flags import options
from service.frontends import count_frontends
from service.settings import PREFIX, Settings, SettingsError, flag, load_settings
from service.settings_page import configuration_page

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables of ours, and a working directory without a settings file."""
    import os

    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_listen_on_this_machine_only() -> None:
    settings = load_settings()
    assert (settings.host, settings.http_port, settings.grpc_port, settings.metrics_port) == (
        "127.0.0.1",
        8000,
        8001,
        8002,
    )
    assert settings.model_repository == Path("models")
    assert settings.models == ()


def test_zero_means_what_the_machine_has() -> None:
    settings = load_settings()
    assert settings.threads == available_cores()
    assert settings.frontends == count_frontends(available_cores())
    assert load_settings(threads=3, frontends=2).threads == 3


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "any.yaml", "http_port: 1001\ngrpc_port: 1002\nmetrics_port: 1003\n")
    monkeypatch.setenv("TORCHERE_HTTP_PORT", "2001")
    monkeypatch.setenv("TORCHERE_GRPC_PORT", "2002")
    settings = load_settings(file, http_port=3001)
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (3001, 2002, 1003)
    assert settings.host == "127.0.0.1"


def test_the_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    write(tmp_path / "torchere.yaml", "models: [digits]\nlog_format: json\n")
    assert load_settings().models == ("digits",)
    assert load_settings(models=("other",)).models == ("other",)


def test_the_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHERE_CONFIG", str(write(tmp_path / "mine.yaml", "access_log: true\n")))
    assert load_settings().access_log


def test_what_is_not_given_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHERE_MODELS", "a,b")
    monkeypatch.setenv("TORCHERE_HTTP_PORT", "")
    settings = load_settings(models=(), http_port=None)
    assert settings.models == ("a", "b")
    assert settings.http_port == 8000


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert load_settings(model_repository="~/models").model_repository == Path("/home/someone/models")
    assert load_settings().cache_dir == Path("/home/someone/.cache/torchere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert load_settings().cache_dir == Path("/var/cache/torchere")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"http_port": 70000}, "--http-port: http_port must be less than or equal to 65535, not 70000"),
        ({"device": "gpu"}, "--device: device must be auto, cpu, or cuda:0, cuda:1, ..., not 'gpu'"),
        ({"log_format": "xml"}, "--log-format: log_format must be 'human' or 'json', not 'xml'"),
        ({"http_port": 8001}, "http_port and grpc_port are both 8001: give each its own, with --grpc-port say"),
        ({"cache_max_size": "much"}, "--cache-max-size: cache_max_size must be bytes, or a number with K, M, G or T"),
        ({"cache_max_size": -1}, "--cache-max-size: cache_max_size must be greater than or equal to 0, not -1"),
        ({"startup": "later"}, "--startup: startup must be 'wait' or 'fallback', not 'later'"),
        ({"drain_timeout_s": float("nan")}, "--drain-timeout-s: drain_timeout_s must be"),
    ],
)
def test_a_wrong_flag_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("size", "expected"),
    [("20G", 20 * 10**9), ("1.5 GB", 15 * 10**8), ("500m", 500 * 10**6), ("4096", 4096), (0, 0)],
)
def test_a_size_has_a_unit_or_is_in_bytes(size: str | int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(cache_max_size=size).cache_max_size == expected
    monkeypatch.setenv("TORCHERE_CACHE_MAX_SIZE", str(size))
    assert load_settings().cache_max_size == expected


def test_nothing_is_trusted_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load_settings().trust
    assert load_settings(trust=True).trust
    monkeypatch.setenv("TORCHERE_TRUST", "true")
    assert load_settings().trust


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHERE_THREADS", "many")
    with pytest.raises(SettingsError, match=r"^TORCHERE_THREADS: threads must be a valid integer, not 'many'$"):
        load_settings()


def test_a_misspelt_variable_is_refused_but_not_the_ones_that_kubernetes_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHERE_PORT_8000_TCP", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("TORCHERE_SERVICE_PORT", "8000")
    monkeypatch.setenv("TORCHERE_PORT", "tcp://10.0.0.1:8000")
    load_settings()
    monkeypatch.setenv("TORCHERE_HTTP_PROT", "9000")
    with pytest.raises(SettingsError, match="unknown variable TORCHERE_HTTP_PROT: did you mean 'TORCHERE_HTTP_PORT'"):
        load_settings()


def test_every_fault_of_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path / "torchere.yaml", "host: 0.0.0.0\nhttp_prot: 9000\ngrpc_port: many\nmodels: digits\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    message = str(caught.value)
    assert f"{file}:2: unknown key 'http_prot': did you mean 'http_port'?" in message
    assert f"{file}:3: grpc_port must be a valid integer, not 'many'" in message
    assert f"{file}:4: models must be a list, not 'digits'" in message


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"bad.yaml:2: this is not YAML: .*indent with spaces, not tabs"):
        load_settings(write(tmp_path / "bad.yaml", "a:\n\tb: 1\n"))


def test_a_file_that_is_not_there_is_named_with_who_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"^--config absent.yaml, which cannot be read: No such file"):
        load_settings(Path("absent.yaml"))
    monkeypatch.setenv("TORCHERE_CONFIG", "gone.yaml")
    with pytest.raises(SettingsError, match=r"^TORCHERE_CONFIG names gone.yaml, which cannot be read"):
        load_settings()


def test_settings_are_frozen_and_survive_the_way_to_another_process() -> None:
    settings = load_settings(models=("a",), cache_dir="/tmp/cache", http_port=0)
    assert Settings.model_validate_json(settings.model_dump_json()) == settings
    with pytest.raises(ValidationError):
        settings.http_port = 1  # type: ignore[misc]


def command(*names: str) -> tuple[click.Command, dict[str, Any]]:
    seen: dict[str, Any] = {}

    @click.command()
    @options(*names)
    def run(**given: Any) -> None:
        seen.update(given)

    return run, seen


def test_every_field_is_a_flag_with_its_help() -> None:
    run, _ = command()
    words = " ".join(CliRunner().invoke(run, ["--help"], terminal_width=200).output.split())
    for name, field in Settings.model_fields.items():
        assert flag(name) in words
        assert field.description is not None
        assert field.description in words


def test_flags_give_what_was_given_and_nothing_else() -> None:
    run, seen = command()
    result = CliRunner().invoke(
        run, ["--models", "a", "--models", "b", "--no-access-log", "--http-port", "0", "--trust"]
    )
    assert result.exit_code == 0, result.output
    given = {name: value for name, value in seen.items() if value not in (None, ())}
    assert given == {"models": ("a", "b"), "access_log": False, "http_port": 0, "trust": True}
    assert load_settings(**seen).models == ("a", "b")


def test_some_flags_only() -> None:
    run, seen = command("cache_dir", "device")
    assert CliRunner().invoke(run, ["--device", "cpu"]).exit_code == 0
    assert set(seen) == {"cache_dir", "device"}
    assert CliRunner().invoke(run, ["--host", "x"]).exit_code == 2


def test_the_page_is_as_the_settings_are() -> None:
    committed = (ROOT / "docs" / "configuration.md").read_text()
    assert committed == configuration_page(), "run: python -m service.settings_page > docs/configuration.md"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
    ],
)
def test_a_containers_quota_limits_the_cores(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_quota(tmp_path) == cores


def test_a_small_quota_still_leaves_one_core(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("10000 100000\n")
    assert available_cores(tmp_path) == 1


def test_models_to_load_need_explicit_control() -> None:
    with pytest.raises(SettingsError, match="--load-model needs --model-control-mode explicit"):
        load_settings(load_model=("m",))
    assert load_settings(load_model=("m",), model_control_mode="explicit").load_model == ("m",)


def test_a_plain_off_in_yaml_switches_shared_memory_off(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("shared_memory: off\n")
    assert load_settings(tmp_path / "settings.yaml").shared_memory == "off"
