"""The metrics sidecar: merges what every process wrote into the metrics directory and publishes it at /metrics.

Imports neither torch nor FastAPI. Started by the parent, or on its own in a container beside the service:

    python -m service.observe.sidecar --directory DIR --host 127.0.0.1 --port 8002
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import click
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from service.engine.link import LINK_VARIABLE, BlockingLink, inherited_socket
from service.engine.messages import Drain, Started, StartFailed


def publish(directory: Path, host: str, port: int) -> WSGIServer:
    """Serve /metrics in a thread. Raises OSError where the port is taken, ValueError where the directory is missing."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    server, _ = start_http_server(port, addr=host, registry=registry)
    return server


@click.command()
@click.option("--directory", type=click.Path(path_type=Path), required=True, help="Where the processes write.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8002, show_default=True)
def main(directory: Path, host: str, port: int) -> None:
    """Publish the metrics of a torchere service."""
    link: BlockingLink[Drain] | None = BlockingLink(inherited_socket(), Drain) if LINK_VARIABLE in os.environ else None
    try:
        server = publish(directory, host, port)
    except (OSError, ValueError) as error:
        reason = f"metrics on {host}:{port}: {error}: choose another with --metrics-port"
        if link is None:
            raise click.ClickException(reason) from error
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
