"""Which models may be opened without anybody's word, and what the others are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import LoadFailed
from compiler.source import find_source
from compiler.spec import Factory
from compiler.trust import check_shipped, check_trust, find_danger

MLP = Factory("mlp", '{"sizes":[4,2]}')


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "pets" / "1"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["model.pt2", "model.pt", "model.py"])
def test_a_format_that_can_run_code_needs_a_word(version: Path, name: str) -> None:
    (version / name).touch()
    source = find_source(version)
    check_trust(source, trusted=True)
    with pytest.raises(LoadFailed) as caught:
        check_trust(source, trusted=False)
    assert str(caught.value).startswith(f"{version / name} can run code: ")
    assert str(caught.value).endswith(f"write `trust: true` in {version.parent / 'model.yaml'}, or start with --trust")


def test_weights_for_a_factory_that_is_installed_need_none(version: Path) -> None:
    for name in ("model.safetensors", "calibration.safetensors", "samples.safetensors"):
        (version / name).touch()
    source = find_source(version, factory=MLP)
    assert source.files == ("model.safetensors", "calibration.safetensors", "samples.safetensors")
    check_trust(source, trusted=False)
    assert find_danger(source) == ""


def test_calibration_in_python_needs_a_word_even_beside_safe_weights(version: Path) -> None:
    (version / "model.safetensors").touch()
    (version / "calibration.py").touch()
    with pytest.raises(LoadFailed, match=r"calibration\.py can run code: it is Python code"):
        check_trust(find_source(version, factory=MLP), trusted=False)


def test_an_artifact_that_came_with_the_model_is_machine_code(version: Path) -> None:
    artifact = version.parent / "artifacts" / "ab12"
    check_shipped(artifact, version, trusted=True)
    with pytest.raises(LoadFailed, match=r"ab12 can run code: a compiled artifact holds machine code; .* --trust$"):
        check_shipped(artifact, version, trusted=False)
