"""Modules made by installed code, chosen by name: the names that are known, and what a wrong one is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compiler.errors import LoadFailed
from compiler.factories import find_distribution, make_module
from compiler.key import key_parts
from compiler.load import open_model
from compiler.source import find_source
from compiler.spec import Factory, Options, Target

Install = Callable[..., None]

PETS = """
import torch

def create(width, names=("cat",)):
    return torch.nn.Linear(width, len(names))

def create_nothing():
    return None

def fail(**arguments):
    raise KeyError("no such layer")
"""
TIMM = """
import torch

def list_models():
    return ["resnet18", "resnet50"]

def create_model(name, pretrained, **arguments):
    assert not pretrained
    return torch.nn.Linear(2, arguments.get("num_classes", 1000))
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install("my-pets", "1.0", "pets = my_pets:create", my_pets=text)`: a distribution with a module."""
    site = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(site))
    modules: list[str] = []

    def put(distribution: str, version: str, *entries: str, **texts: str) -> None:
        metadata = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text("\n".join(["[torchere.factories]", *entries]))
        for name, text in texts.items():
            (site / f"{name}.py").write_text(text)
            modules.append(name)

    yield put
    for name in modules:
        sys.modules.pop(name, None)


def test_a_perceptron_of_our_own() -> None:
    factory = Factory("mlp", '{"sizes": [4, 8, 3], "activation": "gelu"}')
    assert find_distribution(factory) == ""
    module = make_module(factory)
    assert [type(layer).__name__ for layer in module.children()] == ["Linear", "GELU", "Linear"]
    assert module(torch.ones(2, 4)).shape == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('{"sizes": [4]}', r"needs sizes as \[64, 32, 10\], two or more, not \[4\]"),
        ('{"sizes": [4, -2]}', "needs sizes as"),
        ('{"sizes": "4"}', "needs sizes as"),
        (
            '{"sizes": [4, 2], "activation": "eval"}',
            "knows the activations relu, gelu, silu, tanh, sigmoid, not 'eval'",
        ),
    ],
)
def test_a_perceptron_that_cannot_be(arguments: str, message: str) -> None:
    with pytest.raises(LoadFailed, match=message):
        make_module(Factory("mlp", arguments))


def test_a_factory_that_a_distribution_registers(install: Install) -> None:
    install("my-pets", "1.0", "pets = my_pets:create", my_pets=PETS)
    factory = Factory("pets", '{"width": 4, "names": ["cat", "dog"]}')
    assert find_distribution(factory) == "my-pets"
    assert "my_pets" not in sys.modules, "looking a name up imports nothing"
    assert make_module(factory)(torch.ones(1, 4)).shape == (1, 2)


def test_its_version_and_its_arguments_are_part_of_the_key(tmp_path: Path, install: Install, target: Target) -> None:
    install("my-pets", "1.0", "pets = my_pets:create", my_pets=PETS)
    (tmp_path / "model.safetensors").touch()
    source = find_source(tmp_path, factory=Factory("pets", '{"width": 4}'))
    parts = key_parts(source, Options(), target)
    assert parts["requires.my-pets"] == "1.0"
    other = find_source(tmp_path, factory=Factory("pets", '{"width": 5}'))
    assert key_parts(other, Options(), target) != parts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mpl", "unknown factory 'mpl' in model.yaml: did you mean 'mlp'?"),
        ("os.system", "unknown factory 'os.system' in model.yaml: known are mlp, timm:..., torchvision:..., pets"),
        ("my_pets:create", "unknown factory 'my_pets:create' in model.yaml"),
        ("timm:", "the factory 'timm:' names no architecture"),
        ("timm:hf-hub:somebody/model", "the factory 'timm:hf-hub:somebody/model' names no architecture"),
    ],
)
def test_a_name_is_never_an_import(install: Install, name: str, message: str) -> None:
    install("my-pets", "1.0", "pets = my_pets:create", my_pets=PETS)
    with pytest.raises(LoadFailed) as caught:
        find_distribution(Factory(name))
    assert str(caught.value).startswith(message)


def test_two_that_register_the_same_name(install: Install) -> None:
    install("my-pets", "1.0", "pets = my_pets:create", my_pets=PETS)
    install("their-pets", "1.0", "pets = their_pets:create")
    with pytest.raises(LoadFailed, match="'pets' is registered by my-pets and their-pets: uninstall one of them"):
        find_distribution(Factory("pets"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "create",
            r"model\.safetensors cannot be loaded: TypeError: create\(\) missing 1 required positional argument",
        ),
        ("create_nothing", "the factory 'pets' must return a torch.nn.Module, not NoneType"),
        ("fail", "model.safetensors cannot be loaded: KeyError: 'no such layer'"),
    ],
)
def test_a_factory_that_makes_no_module(tmp_path: Path, install: Install, entry: str, message: str) -> None:
    install("my-pets", "1.0", f"pets = my_pets:{entry}", my_pets=PETS)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(LoadFailed, match=message):
        open_model(tmp_path, "cpu", factory=Factory("pets"))


def test_weights_are_filled_in_and_must_fit(tmp_path: Path) -> None:
    factory = Factory("mlp", '{"sizes": [2, 1]}')
    save_file({"0.weight": torch.tensor([[1.0, 2.0]]), "0.bias": torch.zeros(1)}, tmp_path / "model.safetensors")
    opened = open_model(tmp_path, "cpu", factory=factory)
    assert opened.kind == "factory"
    assert opened.module(torch.tensor([[3.0, 4.0]])).tolist() == [[11.0]]
    with pytest.raises(LoadFailed, match=r"model\.safetensors does not fit"):
        open_model(tmp_path, "cpu", factory=Factory("mlp", '{"sizes": [3, 1]}'))


def test_an_architecture_of_timm(install: Install) -> None:
    install("timm", "1.0.20", timm=TIMM)
    factory = Factory("timm:resnet18", '{"num_classes": 7}')
    assert find_distribution(factory) == "timm"
    assert make_module(factory)(torch.ones(1, 2)).shape == (1, 7)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("timm:resnet81", "{}", "timm has no architecture 'resnet81': did you mean 'timm:resnet18'?"),
        (
            "timm:resnet18",
            '{"checkpoint_path": "/tmp/x"}',
            "timm factories take the arguments .*, not 'checkpoint_path'",
        ),
        ("timm:resnet18", '{"pretrained": true}', "timm factories take the arguments .*, not 'pretrained'"),
        ("timm:resnet18", '{"img_size": {"a": 1}}', "'img_size' of a timm factory must be a number, text or list"),
    ],
)
def test_what_timm_is_not_asked(install: Install, name: str, arguments: str, message: str) -> None:
    install("timm", "1.0.20", timm=TIMM)
    with pytest.raises(LoadFailed, match=message):
        make_module(Factory(name, arguments))


def test_a_family_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(LoadFailed, match="need the distribution 'torchvision': pip install torchvision"):
        make_module(Factory("torchvision:resnet18"))
