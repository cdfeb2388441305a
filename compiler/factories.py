"""The factories that a model.yaml may name: a few of our own, and those that installed distributions register.

    [project.entry-points."torchere.factories"]     # in the pyproject.toml of a package
    pets = "my_layers.pets:create_pets"             # called with the arguments in model.yaml, returns an nn.Module

A name is looked up, never imported: model.yaml may come from anybody, and an import path would be code of its choice.
Imports no torch until a module is made; `load.py` fills in the weights.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import itertools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from compiler.errors import LoadFailed
from compiler.spec import Factory

if TYPE_CHECKING:
    from torch import nn

GROUP = "torchere.factories"
ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")  # no ':' or '/', by which timm goes to the network or the disk
ACTIVATIONS = {"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh", "sigmoid": "Sigmoid"}
# What may be said of an architecture. Others download weights or read files: pretrained, checkpoint_path, weights.
TIMM_ARGUMENTS = {"num_classes", "in_chans", "img_size", "global_pool", "drop_rate", "drop_path_rate"}
TORCHVISION_ARGUMENTS = {"num_classes", "dropout", "width_mult", "image_size", "aux_logits", "transform_input"}


def find_distribution(factory: Factory) -> str:
    """The distribution whose version decides what `factory` makes; "" for our own. Raises LoadFailed for an unknown."""
    family, colon, architecture = factory.name.partition(":")
    if factory.name in BUILT_IN:
        return ""
    if colon and family in FAMILIES:
        if not ARCHITECTURE.fullmatch(architecture):
            raise LoadFailed(f"the factory '{factory.name}' names no architecture: write one as {family}:resnet18")
        return family
    entry = _entry_point(factory.name)
    assert entry.dist is not None, "an entry point that was found belongs to a distribution"
    return str(entry.dist.name)


def make_module(factory: Factory) -> nn.Module:
    """The module, with whatever weights it begins with. Raises LoadFailed, or what the factory raises."""
    from torch import nn

    arguments: dict[str, Any] = msgspec.json.decode(factory.arguments)
    family, colon, architecture = factory.name.partition(":")
    if factory.name in BUILT_IN:
        module: object = BUILT_IN[factory.name](**arguments)
    elif colon and family in FAMILIES:
        module = FAMILIES[family](architecture, arguments)
    else:
        create: Callable[..., object] = _entry_point(factory.name).load()
        module = create(**arguments)
    if not isinstance(module, nn.Module):
        raise LoadFailed(f"the factory '{factory.name}' must return a torch.nn.Module, not {type(module).__name__}")
    return module


def make_mlp(sizes: list[int], activation: str = "relu") -> nn.Module:
    """Linear layers from size to size with an activation between: nn.Sequential(Linear, ReLU, Linear, ...)."""
    from torch import nn

    if not isinstance(sizes, list) or len(sizes) < 2 or not all(type(size) is int and size > 0 for size in sizes):
        raise LoadFailed(f"the factory 'mlp' needs sizes as [64, 32, 10], two or more, not {sizes!r}")
    if activation not in ACTIVATIONS:
        raise LoadFailed(f"the factory 'mlp' knows the activations {', '.join(ACTIVATIONS)}, not {activation!r}")
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), getattr(nn, ACTIVATIONS[activation])()]
    return nn.Sequential(*layers[:-1])


def make_timm(architecture: str, arguments: dict[str, Any]) -> object:
    """An architecture of timm, without its pretrained weights."""
    timm = _import_family("timm")
    _check_architecture("timm", architecture, timm.list_models())
    _check_arguments("timm", arguments, TIMM_ARGUMENTS)
    return timm.create_model(architecture, pretrained=False, **arguments)


def make_torchvision(architecture: str, arguments: dict[str, Any]) -> object:
    """A classifier of torchvision, without weights; its other models would download a backbone all the same."""
    models = _import_family("torchvision.models")
    _check_architecture("torchvision", architecture, models.list_models(module=models))
    _check_arguments("torchvision", arguments, TORCHVISION_ARGUMENTS)
    return models.get_model(architecture, weights=None, **arguments)


BUILT_IN: dict[str, Callable[..., object]] = {"mlp": make_mlp}
FAMILIES: dict[str, Callable[[str, dict[str, Any]], object]] = {"timm": make_timm, "torchvision": make_torchvision}


def _entry_point(name: str) -> importlib.metadata.EntryPoint:
    registered = importlib.metadata.entry_points(group=GROUP)
    found = list(registered.select(name=name))
    if len({entry.value for entry in found}) > 1:
        owners = " and ".join(sorted(str(entry.dist.name) for entry in found if entry.dist is not None))
        raise LoadFailed(f"the factory '{name}' is registered by {owners}: uninstall one of them")
    if not found:
        known = [*BUILT_IN, *(f"{family}:..." for family in FAMILIES), *sorted(registered.names)]
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        raise LoadFailed(f"unknown factory '{name}' in model.yaml: {remedy}")
    return found[0]


def _import_family(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise LoadFailed(f"factories of {package} need the distribution '{package}': pip install {package}") from error


def _check_architecture(family: str, name: str, known: list[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        remedy = f"did you mean '{family}:{near[0]}'?" if near else f"this version of it has {len(known)} others"
        raise LoadFailed(f"{family} has no architecture '{name}': {remedy}")


def _check_arguments(family: str, arguments: dict[str, Any], known: set[str]) -> None:
    for name, value in arguments.items():
        if name not in known:
            raise LoadFailed(f"{family} factories take the arguments {', '.join(sorted(known))}, not '{name}'")
        if isinstance(value, dict):
            raise LoadFailed(f"the argument '{name}' of a {family} factory must be a number, text or list")
