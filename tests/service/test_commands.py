"""`torchere compile`, `models show` and `cache` with an artifact that is there already: nothing is built."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from compiler.key import digest, key_parts
from compiler.manifest import MANIFEST_NAME, write_manifest
from compiler.package import list_files
from service.cache_commands import parse_age, parse_size
from service.cli import main
from service.client.console import describe_state
from service.local_models import find_models, find_target
from service.settings import PREFIX, load_settings
from tests.service.report.samples import cpu_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory with a repository of one trusted model, an empty cache, and no settings of ours."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "tests/models/affine", tmp_path / "models/affine")
    config = tmp_path / "models/affine/model.yaml"
    text = config.read_text()
    config.write_text(text if "trust:" in text else text + "trust: true\n")
    return tmp_path


@pytest.fixture
def artifact(place: Path) -> Path:
    """The artifact of the model in the cache, as the compiler would have made it."""
    settings = load_settings()
    (model,) = find_models(settings)
    assert model.source is not None, model.error
    parts = key_parts(model.source, model.options, find_target(settings))
    return add_artifact(model.cache.root, parts)


def add_artifact(root: Path, parts: dict[str, str], content: bytes = b"weights") -> Path:
    folder = root / digest(parts)
    folder.mkdir(parents=True, mode=0o700)
    (folder / "model.ts").write_bytes(content)
    ladder = tuple(rung for rung in cpu_manifest().ladder if rung.outcome != "skipped")  # no tool is lacking
    made = msgspec.structs.replace(
        cpu_manifest(), key=digest(parts), key_parts=parts, files=list_files(folder), ladder=ladder, origin="affine/1"
    )
    write_manifest(made, folder)
    return folder


def torchere(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_compile_takes_what_is_there_and_writes_the_page(artifact: Path) -> None:
    done = torchere("compile", "affine", "--report", "out.html")
    assert done.exit_code == 0, done.output
    assert "affine 1  torchscript int8 onednn" in done.output
    assert f"from the cache in 0.0 s: {artifact}" in done.output
    assert "affine 1" in Path("out.html").read_text()


def test_a_page_that_cannot_be_written_is_told(artifact: Path) -> None:
    done = torchere("compile", "--report", "nowhere/out.html")
    assert (done.exit_code, "nowhere/out.html cannot be written" in done.output) == (1, True)


def test_explain_says_that_nothing_changed_or_what(artifact: Path) -> None:
    assert "affine 1: hit, nothing has changed" in torchere("compile", "--dry-run").output
    Path("models/affine/1/model.py").write_text("# another model\n")
    done = torchere("compile", "--explain", "--dry-run", "--threads", "7")
    assert done.exit_code == 0
    assert "affine 1: miss, compared with the only artifact of affine/1" in done.output
    assert re.search(r"^  options.threads +\d+ -> 7$", done.output, re.MULTILINE)
    assert re.search(r"^  source.model.py +[0-9a-f]{12} -> [0-9a-f]{12}$", done.output, re.MULTILINE)
    assert len(re.findall(" -> ", done.output)) == 2


def test_explain_says_that_an_artifact_is_not_sound(artifact: Path) -> None:
    (artifact / "model.ts").write_bytes(b"weightz")
    done = torchere("compile", "--dry-run")
    assert "miss, its artifact is not sound" in done.output
    assert "model.ts is not the file that was built" in done.output


def test_without_any_artifact_there_is_nothing_to_compare_with() -> None:
    assert "affine 1: miss, there is no artifact to compare with" in torchere("compile", "--dry-run").output


def test_a_broken_model_does_not_stop_the_others(artifact: Path) -> None:
    shutil.copytree("models/affine", "models/zulu")
    Path("models/zulu/1/model.py").unlink()
    done = torchere("compile", "--dry-run")
    assert done.exit_code == 1
    assert "zulu 1: models/zulu/1 holds no model" in done.output
    assert "affine 1: hit" in done.output


def test_an_ensemble_is_compiled_as_its_models_are(artifact: Path) -> None:
    shutil.copytree(ROOT / "tests/models/affine_twice", "models/affine_twice")
    done = torchere("compile", "affine_twice")
    assert done.exit_code == 0, done.output
    assert f"from the cache in 0.0 s: {artifact}" in done.output
    assert "affine_twice" not in done.output
    assert "affine 1" in torchere("models", "show", "affine_twice").output, "the only one that it calls"
    shutil.copytree("models/affine", "models/other")
    text = Path("models/affine_twice/model.yaml").read_text()
    Path("models/affine_twice/model.yaml").write_text(text.replace("model: affine", "model: other", 1))
    done = torchere("models", "show", "affine_twice")
    assert (done.exit_code, "ask for one of them: affine, other" in done.output) == (1, True)


def test_shipped_with_the_model_it_needs_no_cache(artifact: Path) -> None:
    done = torchere("compile", "--into-repository")
    shipped = Path("models/affine/1/artifacts") / artifact.name
    assert f"shipped with the model: {shipped}" in done.output
    done = torchere("compile", "--cache-dir", "elsewhere")
    assert "shipped with the model, looked up in" in done.output
    assert not Path("elsewhere").exists()
    assert torchere("models", "show", "affine", "--cache-dir", "elsewhere").exit_code == 0


def test_show_prints_the_ladder_the_manifest_and_the_page(artifact: Path) -> None:
    done = torchere("models", "show", "affine")
    assert done.exit_code == 0
    assert "affine 1  torchscript int8 onednn  2.7x to 3.0x as fast as eager" in done.output
    told = torchere("models", "show", "affine", "--version", "1", "--json", "--report", "out.html").output
    assert json.loads(told)["key"] == artifact.name
    assert "affine 1" in Path("out.html").read_text()


def test_show_says_how_to_get_what_is_not_there() -> None:
    done = torchere("models", "show", "affine")
    assert done.exit_code == 1
    assert (
        "affine 1 is not compiled for this machine with these settings: `torchere compile affine` does it"
        in done.stderr
    )
    done = torchere("models", "show", "affine", "--version", "3")
    assert "model 'affine' has no version '3' to be served: there are 1" in done.stderr
    assert "has no model 'afine': did you mean 'affine'?" in torchere("models", "show", "afine").stderr


def test_without_trust_a_model_is_refused_with_the_way_out() -> None:
    config = Path("models/affine/model.yaml")
    config.write_text(config.read_text().replace("trust: true", "trust: false"))
    done = torchere("compile")
    assert (done.exit_code, "write `trust: true` in models/affine/model.yaml" in done.output) == (1, True)
    assert "hit" not in torchere("compile", "--trust", "--dry-run").output


def test_the_cache_is_listed_verified_and_pruned(artifact: Path) -> None:
    root = artifact.parent
    other = add_artifact(root, {"any": "part"})
    os.utime(other, (1e9, 1e9))
    listed = torchere("cache", "list").output
    assert "affine/1" in listed
    assert "torchscript int8 onednn" in listed
    assert "probabilities" in listed
    assert "2 artifacts" in listed
    assert torchere("cache", "verify").output == "2 of 2 artifacts sound\n"
    (other / "model.ts").write_bytes(b"weightz")
    done = torchere("cache", "verify")
    assert (done.exit_code, "is not the file that was built" in done.output) == (1, True)
    assert "removed 0 artifacts" in torchere("cache", "prune", "--older-than", "99999d").output
    assert "removed 1 artifact," in torchere("cache", "prune", "--broken").output
    assert [path.name for path in root.glob("[0-9a-f]*")] == [artifact.name]
    assert "removed 0 artifacts" in torchere("cache", "prune", "--max-size", "10M").output
    assert "removed 1 artifact," in torchere("cache", "prune", "--older-than", "0s").output


def test_what_cannot_be_read_is_listed_all_the_same(artifact: Path) -> None:
    (artifact / MANIFEST_NAME).write_text("{")
    artifact.rename(artifact.parent / f"{artifact.name}.broken-1")
    add_artifact(artifact.parent, {"any": "part"})
    listed = torchere("cache", "list").output
    assert "set aside: broken" in listed
    assert "1 artifact and 1 set aside" in listed
    assert "removed 2 artifacts" in torchere("cache", "prune").output


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"state": "READY", "reason": ""}, "READY"),
        ({"state": "LOADING", "reason": "compiling"}, "LOADING: compiling"),
        (
            {"state": "READY", "reason": "", "optimization": "compiling", "progress": "build inductor fp32"},
            "READY, a faster artifact is being compiled: build inductor fp32",
        ),
        (
            {"state": "READY", "reason": "", "optimization": "fallback", "progress": "no candidate passed"},
            "READY as it is, not compiled: no candidate passed",
        ),
        ({"state": "READY", "reason": "", "optimization": "optimised", "progress": ""}, "READY"),
    ],
)
def test_the_state_of_a_model_in_words(model: dict[str, str], words: str) -> None:
    assert describe_state(model) == words


def test_sizes_and_ages() -> None:
    assert (parse_size("500M"), parse_size("1.5 GB"), parse_size("7")) == (500_000_000, 1_500_000_000, 7)
    assert (parse_age("30d"), parse_age("12 h"), parse_age("1.5m")) == (30 * 86_400, 12 * 3600, 90)
    assert "as in 30d" in torchere("cache", "prune", "--older-than", "30").output
    assert "as in 500M" in torchere("cache", "prune", "--max-size", "many").output
