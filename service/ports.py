"""Ports: taken exclusively first, so that two services never share one unawares, then opened for each frontend.

Knows sockets only. `serve.py` binds before it starts any process, so that a port in use is told at once.
"""

from __future__ import annotations

import socket

HTTP_SOCKET_VARIABLE = "TORCHERE_HTTP_SOCKET"  # the number of the listening socket that a frontend inherits
BACKLOG = 2048  # a burst of new connections waits instead of being refused


def probe_port(host: str, port: int, flag: str) -> int:
    """Check that nobody listens on `port` and return it; 0 picks a free one. Raises OSError naming the flag to use."""
    with _bind(host, port, flag, shared=False) as probe:
        return int(probe.getsockname()[1])


def listening_sockets(host: str, port: int, count: int, flag: str) -> list[socket.socket]:
    """`count` listening sockets on one port, which the kernel shares connections between. Raises OSError."""
    shared = count > 1
    port = probe_port(host, port, flag)
    sockets = [_bind(host, port, flag, shared) for _ in range(count)]
    for listening in sockets:
        listening.listen(BACKLOG)
        listening.set_inheritable(True)
    return sockets


def _bind(host: str, port: int, flag: str, shared: bool) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise OSError(f"host '{host}' is unknown: {error.strerror}: choose another with --host") from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(f"port {port} on {host} cannot be used ({error.strerror}): choose another with {flag}") from error
    return bound
