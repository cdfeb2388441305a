"""Which files make a model, and what is told where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import LoadFailed
from compiler.source import find_model_files, find_source
from compiler.spec import Factory

MLP = Factory("mlp")


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "kind", "files"),
    [
        (["model.pt2"], "pt2", ("model.pt2",)),
        (["model.pt", "README"], "torchscript", ("model.pt",)),
        (["model.pt2", "model.safetensors"], "pt2", ("model.pt2",)),
        (["model.py"], "python", ("model.py",)),
        (["model.py", "model.safetensors"], "python", ("model.py", "model.safetensors")),
        (
            ["model.py", "samples.safetensors", "calibration.py"],
            "python",
            ("model.py", "calibration.py", "samples.safetensors"),
        ),
    ],
)
def test_the_files_of_a_model(tmp_path: Path, names: list[str], kind: str, files: tuple[str, ...]) -> None:
    source = find_source(put(tmp_path, *names), requires=("b", "a"))
    assert (source.kind, source.files) == (kind, files)
    assert source.requires == ("a", "b")


def test_opening_needs_the_model_and_not_what_lies_beside(tmp_path: Path) -> None:
    put(tmp_path, "model.py", "model.safetensors", "calibration.safetensors", "samples.safetensors")
    assert find_model_files(tmp_path) == ("model.py", "model.safetensors")


def test_weights_and_a_factory(tmp_path: Path) -> None:
    source = find_source(put(tmp_path, "model.safetensors"), factory=MLP)
    assert (source.kind, source.files, source.factory) == ("factory", ("model.safetensors",), MLP)
    assert source.requires == ()


@pytest.mark.parametrize(
    ("names", "factory", "message"),
    [
        ([], None, "holds no model: put one of these there: model.pt2"),
        ([], MLP, "lacks model.safetensors, the weights of the factory in model.yaml"),
        (
            ["model.safetensors"],
            None,
            r"holds no model \(model.safetensors alone is weights: add model.py, or `factory`",
        ),
        (["model.py", "model.pt2"], None, "holds both model.pt2 and model.py: keep the one"),
        (["model.py"], MLP, "holds model.py, but model.yaml names a factory: move the file away, or remove `factory`"),
        (["model.pth"], None, "model.pth is a pickle, which can run code as it is opened: save its weights with"),
        (["pytorch_model.bin", "config.json"], None, "pytorch_model.bin is a pickle, .* or export it to model.pt2"),
        (["model.pkl"], None, "model.pkl is a pickle"),
        (["model.safetensors"], Factory("mpl"), "unknown factory 'mpl' in model.yaml: did you mean 'mlp'?"),
    ],
)
def test_what_is_told(tmp_path: Path, names: list[str], factory: Factory | None, message: str) -> None:
    with pytest.raises(LoadFailed, match=message):
        find_source(put(tmp_path, *names), factory=factory)
