"""The metrics sidecar: merges what every process wrote into the metrics directory and publishes it at /metrics.

Imports neither torch nor FastAPI. Started by the parent, or on its own in a container beside the service:

    python -m service.observe.sidecar --directory DIR --host 127.0.0.1 --port 8002
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIServer

import click
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from service.engine.link import LINK_VARIABLE, BlockingLink, inherited_socket
from service.engine.messages import Drain, Started, StartFailed
from service.observe.metrics_server import serve_metrics
from service.security import TokenFile, TokenFileError
from service.tls import Tls, TlsError, make_tls


def publish(
    directory: Path, host: str, port: int, tls: Tls | None = None, tokens: TokenFile | None = None
) -> WSGIServer:
    """Serve /metrics in a thread.

    Raises OSError where the port is taken, ValueError where the directory is missing or a certificate cannot be used.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    return serve_metrics(registry, host, port, tls, tokens)


def arguments_of(directory: Path, host: str, port: int, **files: Path | None) -> tuple[str, ...]:
    """The command line of a sidecar; `files` are tls_certificate, tls_key, tls_client_ca and token_file."""
    given: Iterable[tuple[str, Any]] = [("directory", directory), ("host", host), ("port", port), *files.items()]
    return tuple(
        word for name, value in given if value is not None for word in (f"--{name.replace('_', '-')}", str(value))
    )


FILE = click.Path(path_type=Path)


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), required=True, help="Where the processes write.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8002, show_default=True)
@click.option("--tls-certificate", type=FILE, help="TLS: the certificate chain, as PEM.")
@click.option("--tls-key", type=FILE, help="TLS: its private key, as PEM.")
@click.option("--tls-client-ca", type=FILE, help="Mutual TLS: the authorities of clients' certificates, as PEM.")
@click.option("--token-file", type=FILE, help="The tokens that let clients in; the scope asked for is metrics.")
def main(directory: Path, host: str, port: int, token_file: Path | None, **tls_files: Path | None) -> None:
    """Publish the metrics of a torchere service."""
    link: BlockingLink[Drain] | None = BlockingLink(inherited_socket(), Drain) if LINK_VARIABLE in os.environ else None
    reason = ""
    try:
        tls = make_tls(*(tls_files[name] for name in ("tls_certificate", "tls_key", "tls_client_ca")))
        server = publish(directory, host, port, tls, TokenFile(token_file) if token_file is not None else None)
    except (TlsError, TokenFileError) as error:
        reason = str(error)
    except (OSError, ValueError) as error:
        reason = f"metrics on {host}:{port}: {error}: choose another with --metrics-port"
    if reason:
        if link is None:
            raise click.ClickException(reason)
        link.send(StartFailed(reason))
        return
    if link is None:
        threading.Event().wait()
        return
    link.send(Started(os.getpid(), metrics_port=server.server_port))
    for _ in link:
        break


if __name__ == "__main__":
    main()
