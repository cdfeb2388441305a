"""The settings as flags of a click command.

Knows the fields, not what they mean: bounds are left to pydantic, so that every source has the same sentence.
`cli.py` decorates its commands with `options`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import BeforeValidator

from service.settings import Settings, default_text, flag, kind_of, variable


def options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Turn the fields `names`, or all, into flags of a command, which receives None for what is not given."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names or tuple(Settings.model_fields)):
            field = Settings.model_fields[name]
            words = f"{field.description}  [{variable(name)}; default: {default_text(name)}]"
            command = click.option(_declaration(name), name, default=None, help=words, **_click_kind(name))(command)
        return command

    return decorate


def _declaration(name: str) -> str:
    return f"{flag(name)}/--no-{name.replace('_', '-')}" if kind_of(name) is bool else flag(name)


def _click_kind(name: str) -> dict[str, Any]:
    """What click checks by itself."""
    kind = kind_of(name)
    if kind is tuple:
        return {"multiple": True, "metavar": "NAME"}
    if kind is bool:
        return {}
    if kind is int and any(isinstance(mark, BeforeValidator) for mark in Settings.model_fields[name].metadata):
        return {"type": str, "metavar": "SIZE"}  # pydantic reads it, as it does from a file
    if kind is Literal:
        return {"type": click.Choice(typing.get_args(Settings.model_fields[name].annotation))}
    return {"type": click.Path(path_type=Path) if kind is Path else kind}
