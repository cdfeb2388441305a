"""The metrics sidecar: merges what every process wrote into the metrics directory and publishes it at /metrics.

Imports neither torch nor FastAPI. Started by the parent, or on its own in a container beside the service:

    python -m service.observe.sidecar --directory DIR --host 127.0.0.1 --port 8002

The directory is the service's `--metrics-directory`; to read it is enough. The service's own sidecar is left out with
`--no-metrics-sidecar`.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from wsgiref.simple_server import WSGIServer

import click

if TYPE_CHECKING:
    from service.settings import Settings

from service.engine.link import LINK_VARIABLE, BlockingLink, inherited_socket
from service.engine.messages import Drain, Started, StartFailed
from service.observe.aliases import Aliases, alias_families
from service.observe.exposition import choose_format, expose
from service.observe.families import families
from service.observe.gpu import Gpus
from service.observe.machine import Machine
from service.observe.merge import Reader
from service.observe.metrics_server import serve_metrics
from service.observe.protobuf import PROTOBUF_TYPE
from service.observe.store import FILE_PREFIX, is_alive
from service.security import TokenFile, TokenFileError
from service.tls import Tls, TlsError, make_tls

LINGER_POLL_S = 0.2


class Publisher:
    """`publisher.scrape(accept)`: all metrics of a directory, and of the machine, in the format that is accepted."""

    def __init__(self, directory: Path, aliases: Aliases = "triton") -> None:
        if not directory.is_dir():
            raise ValueError(f"{directory} is no directory: name the service's --metrics-directory")
        self._reader = Reader(directory)
        self._aliases = aliases
        self._lock = threading.Lock()
        self._machine = Machine()
        self._gpus = Gpus()

    def scrape(self, accept: str) -> tuple[str, bytes]:
        """Content type and body. Raises OSError where the directory is gone."""
        content_type = choose_format(accept)
        with self._lock:
            merged = self._reader.read()
            self._machine.add_to(merged)
            self._gpus.add_to(merged)
            found = [*families(merged, content_type == PROTOBUF_TYPE), *alias_families(merged, self._aliases)]
            return content_type, expose(found, content_type)


def publish(
    directory: Path,
    host: str,
    port: int,
    tls: Tls | None = None,
    tokens: TokenFile | None = None,
    aliases: Aliases = "triton",
) -> WSGIServer:
    """Serve /metrics in a thread.

    Raises OSError where the port is taken, ValueError where the directory is missing or a certificate cannot be used.
    """
    return serve_metrics(Publisher(directory, aliases).scrape, host, port, tls, tokens)


def arguments_of(directory: Path, host: str, port: int, **more: Path | str | None) -> tuple[str, ...]:
    """The command line of a sidecar; `more` are its other options, by name."""
    given: Iterable[tuple[str, Any]] = [("directory", directory), ("host", host), ("port", port), *more.items()]
    return tuple(
        word for name, value in given if value is not None for word in (f"--{name.replace('_', '-')}", str(value))
    )


def sidecar_arguments(directory: Path, settings: Settings) -> tuple[str, ...]:
    """The command line that the service's settings ask for."""
    names = ("tls_certificate", "tls_key", "tls_client_ca") if settings.metrics_tls else ()
    more = {name: getattr(settings, name) for name in (*names, "token_file")}
    return arguments_of(directory, settings.host, settings.metrics_port, **more, aliases=settings.metrics_aliases)


def _wait_for_the_end(directory: Path, linger_s: float) -> None:
    """Until SIGTERM, and then for so long as somebody counts: a service that drains is told of to its end.

    A handler is needed anyway: the first process of a container ignores signals that it does not handle. It wakes this
    thread by a socket, for the signal may come to any other, which would not.
    """
    waiting, waking = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno())
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    waiting.recv(1)
    until = time.monotonic() + linger_s
    while time.monotonic() < until and any(is_alive(path) for path in directory.glob(f"{FILE_PREFIX}*")):
        time.sleep(LINGER_POLL_S)


FILE = click.Path(path_type=Path)


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), required=True, help="Where the processes write.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8002, show_default=True)
@click.option("--tls-certificate", type=FILE, help="TLS: the certificate chain, as PEM.")
@click.option("--tls-key", type=FILE, help="TLS: its private key, as PEM.")
@click.option("--tls-client-ca", type=FILE, help="Mutual TLS: the authorities of clients' certificates, as PEM.")
@click.option("--token-file", type=FILE, help="The tokens that let clients in; the scope asked for is metrics.")
@click.option(
    "--aliases",
    type=click.Choice(get_args(Aliases)),
    default="triton",
    show_default=True,
    help="Names of other servers for the same counts.",
)
@click.option(
    "--linger",
    "linger_s",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Seconds to go on after SIGTERM at most, while a service that was told to end as well still counts.",
)
def main(directory: Path, host: str, port: int, token_file: Path | None, aliases: Aliases, **more: Any) -> None:
    """Publish the metrics of a torchere service."""
    link: BlockingLink[Drain] | None = BlockingLink(inherited_socket(), Drain) if LINK_VARIABLE in os.environ else None
    reason = ""
    try:
        tls = make_tls(*(more[name] for name in ("tls_certificate", "tls_key", "tls_client_ca")))
        tokens = TokenFile(token_file) if token_file is not None else None
        server = publish(directory, host, port, tls, tokens, aliases)
    except (TlsError, TokenFileError, ValueError) as error:
        reason = str(error)
    except OSError as error:
        reason = f"metrics on {host}:{port}: {error}: choose another with --metrics-port"
    if reason:
        if link is None:
            raise click.ClickException(reason)
        link.send(StartFailed(reason))
        return
    if link is None:
        _wait_for_the_end(directory, more["linger_s"])
        return
    link.send(Started(os.getpid(), metrics_port=server.server_port))
    for _ in link:
        break


if __name__ == "__main__":
    main()
