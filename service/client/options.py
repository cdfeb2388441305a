"""How the command line names a server and gets into it: its address, whom to trust, who one is.

Knows no protocol. `cli.py` decorates its commands with `server_options`; `console.py` connects.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

TOKEN_VARIABLE = "TORCHERE_TOKEN"  # no flag: others of the machine can read a command line
CERTIFICATE_VARIABLE, KEY_VARIABLE = "TORCHERE_CLIENT_CERT", "TORCHERE_CLIENT_KEY"
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

Command = Callable[..., Any]


class Server(msgspec.Struct, frozen=True):
    """Where it is, and what it needs to see. Files are PEM."""

    url: str
    token: str = ""
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def options(self) -> str:
        """What was given of files, as the command line has it."""
        given = (("--cacert", self.authority), ("--cert", self.certificate), ("--key", self.key))
        return ", ".join(f"{name} {path}" for name, path in given if path is not None)


def identity_options(command: Command) -> Command:
    """`--cert` and `--key`, given to the command as `certificate` and `key`."""
    command = click.option(
        "--key", type=FILE, envvar=KEY_VARIABLE, show_envvar=True, help="Its key. Default: in the same file."
    )(command)
    return click.option(
        "--cert",
        "certificate",
        type=FILE,
        envvar=CERTIFICATE_VARIABLE,
        show_envvar=True,
        help="Mutual TLS: the client's own certificate, as PEM.",
    )(command)


def server_options(command: Command) -> Command:
    """All of them, given to the command as `server`."""

    @functools.wraps(command)
    def with_server(
        *words: Any, url: str, authority: Path | None, certificate: Path | None, key: Path | None, **given: Any
    ) -> Any:
        token = os.environ.get(TOKEN_VARIABLE, "")
        return command(*words, server=Server(url, token, authority, certificate, key), **given)

    authority = click.option(
        "--cacert",
        "authority",
        type=FILE,
        help="The authority of the server's certificate, as PEM. Default: $SSL_CERT_FILE, else those of this machine.",
    )
    address = click.option(
        "--url", default="http://127.0.0.1:8000", show_default=True, envvar="TORCHERE_URL", help="The server's address."
    )
    return address(authority(identity_options(with_server)))
