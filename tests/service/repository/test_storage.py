"""Scanning a repository: what is a model, what is not, and how a broken one stands beside the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import LoadFailed
from compiler.spec import Factory
from service.repository.storage import FoundModel, RepositoryError, scan, source_of

ROOT = Path(__file__).parents[3]


def add(repository: Path, name: str, *versions: str, yaml: str | None = "max_batch_size: 4\n") -> Path:
    folder = repository / name
    folder.mkdir(parents=True)
    for version in versions:
        (folder / version).mkdir()
        (folder / version / "model.py").touch()
    if yaml is not None:
        (folder / "model.yaml").write_text(yaml)
    return folder


def found(repository: Path) -> dict[str, FoundModel]:
    return {model.name: model for model in scan(repository)}


def test_models_are_found_by_name_with_the_versions_to_serve(tmp_path: Path) -> None:
    add(tmp_path, "b", "1", "2", "10")
    add(tmp_path, "a", "1", "3", "x", yaml="version_policy: all")
    first, second = scan(tmp_path)
    assert (first.name, first.versions, first.error) == ("a", ("1", "3"), None)
    assert (second.name, second.versions) == ("b", ("10",))
    assert second.config is not None
    assert second.config.max_batch_size == 4
    assert second.folder == tmp_path / "b"


def test_what_is_not_a_model_is_passed_over(tmp_path: Path) -> None:
    add(tmp_path, "a", "1")
    for name in (".git", "__pycache__", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").touch()
    assert list(found(tmp_path)) == ["a"]


def test_a_broken_model_never_stops_the_others(tmp_path: Path) -> None:
    add(tmp_path, "good", "1")
    add(tmp_path, "typo", "1", "2", yaml="max_batchsize: 4")
    add(tmp_path, "bare", "1", yaml=None)
    add(tmp_path, "spa ce", "1")
    add(tmp_path, "flat")
    add(tmp_path, "vee", "v1")
    add(tmp_path, "gap", "1", yaml="version_policy: {specific: [1, 7]}")
    models = found(tmp_path)
    errors = {name: model.error for name, model in models.items()}
    assert errors.pop("good") is None
    assert (
        errors["typo"] == f"{tmp_path}/typo/model.yaml:1: unknown key 'max_batchsize': did you mean 'max_batch_size'?"
    )
    assert str(errors["bare"]).startswith(f"{tmp_path}/bare/model.yaml is missing")
    assert "begins with a letter or digit and holds only" in str(errors["spa ce"])
    assert errors["flat"] == f"{tmp_path}/flat has no version: put the model's files into {tmp_path}/flat/1"
    assert "('v1' is not a version: versions are 1, 2, 3, ... )" in str(errors["vee"])
    assert "asks for version 7, which is not there: the versions are 1" in str(errors["gap"])
    assert all((model.config is None) == (model.error is not None) for model in models.values())
    assert models["typo"].versions == ("2",), "shown as broken"


def test_a_link_that_leads_nowhere_is_a_broken_model(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("absent")
    (tmp_path / "loop").symlink_to("loop")
    add(tmp_path, "inner", "1", yaml=None)
    (tmp_path / "inner" / "model.yaml").symlink_to("model.yaml")
    models = found(tmp_path)
    assert models["gone"].error == f"{tmp_path}/gone cannot be read: No such file or directory"
    assert models["loop"].error == f"{tmp_path}/loop cannot be read: Too many levels of symbolic links"
    assert "model.yaml is missing" in str(models["inner"].error)


def test_a_model_yaml_that_is_a_folder_is_missing(tmp_path: Path) -> None:
    (add(tmp_path, "a", "1", yaml=None) / "model.yaml").mkdir()
    assert "model.yaml is missing" in str(found(tmp_path)["a"].error)


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    add(tmp_path, "digits", "1")
    add(tmp_path, "other", "1", yaml="nonsense")
    assert [model.name for model in scan(tmp_path, ("digits", "digits"))] == ["digits"]
    with pytest.raises(RepositoryError, match=r"has no model 'digit': did you mean 'digits'\?$"):
        scan(tmp_path, ("digit",))


def test_an_empty_repository_is_no_error_and_an_absent_one_is(tmp_path: Path) -> None:
    assert scan(tmp_path) == ()
    with pytest.raises(RepositoryError, match="has no model 'a': there are none"):
        scan(tmp_path, ("a",))
    with pytest.raises(
        RepositoryError, match=r"absent does not exist: make it, or name another with --model-repository"
    ):
        scan(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="file cannot be read: Not a directory"):
        scan(tmp_path / "file")


@pytest.mark.parametrize("place", ["", "1", "1/model.py", "model.yaml", "2/model.safetensors"])
def test_a_link_out_of_the_repository_is_refused(tmp_path: Path, place: str) -> None:
    outside = add(tmp_path / "elsewhere", "secret", "1", "2")
    (outside / "2" / "model.safetensors").touch()
    repository = tmp_path / "models"
    folder = repository / "linked"
    if place:
        add(repository, "linked", "1", "2")
        target = folder / place
        if target.is_dir():
            (target / "model.py").unlink()
            target.rmdir()
        target.unlink(missing_ok=True)
    else:
        repository.mkdir()
        target = folder
    target.symlink_to(outside / place)
    error = found(repository)["linked"].error
    assert error is not None
    assert "is a link to" in error
    assert "outside the model repository: copy what it links to" in error


def test_a_link_inside_the_repository_is_followed(tmp_path: Path) -> None:
    """As a mounted Kubernetes volume has them: models/a -> ..data/a."""
    add(tmp_path / "..2024", "a", "1")
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "a").symlink_to("..data/a")
    (model,) = scan(tmp_path)
    assert (model.name, model.versions, model.error) == ("a", ("1",), None)


def test_the_demo_repository_is_right() -> None:
    assert {model.name: (model.versions, model.error) for model in scan(ROOT / "models")} == {
        "digits": (("1",), None),
        "efficientnet_lite0": (("1",), None),
    }


@pytest.mark.parametrize("place", ["1/artifacts/ab/model.ts", "artifacts/ab/model.ts", "1/calibration.py"])
def test_a_link_deep_in_what_is_opened_is_refused_too(tmp_path: Path, place: str) -> None:
    repository = tmp_path / "repository"
    target = add(repository, "linked", "1") / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to("/etc/hostname")
    assert "is a link to /etc/hostname, outside the model repository" in (found(repository)["linked"].error or "")


def test_a_model_that_can_run_code_has_a_source_only_where_it_is_trusted(tmp_path: Path) -> None:
    add(tmp_path, "wary", "1")
    add(tmp_path, "sure", "1", yaml="trust: true\n")
    models = found(tmp_path)
    assert source_of(models["sure"], "1", trust_all=False).kind == "python"
    assert source_of(models["wary"], "1", trust_all=True).kind == "python"
    with pytest.raises(LoadFailed, match=r"wary/1/model\.py can run code: .* `trust: true` in .*wary/model\.yaml, or"):
        source_of(models["wary"], "1", trust_all=False)


def test_weights_for_an_installed_factory_have_a_source_without_trust(tmp_path: Path) -> None:
    folder = add(tmp_path, "safe", "1", yaml="factory: {name: mlp, arguments: {sizes: [4, 2]}}\n")
    (folder / "1" / "model.py").rename(folder / "1" / "model.safetensors")
    source = source_of(found(tmp_path)["safe"], "1", trust_all=False)
    assert source.factory == Factory("mlp", '{"sizes":[4,2]}')
