"""What must hold before anything starts: devices that are alike, ports that are free, certificates that are sound.

`serve.py` asks first thing; each failure is a sentence that says which setting to change.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

import msgspec

from compiler.errors import CompileError
from compiler.target import detect_target
from service.busy_poll import choose_busy_poll_us
from service.cores import available_cores
from service.ports import listening_sockets, probe_port
from service.security import TokenFile, TokenFileError
from service.settings import Settings
from service.tls import TlsError, check_tls, make_tls


class StartupError(Exception):
    """The service cannot start; the sentence says what to change."""


def check_devices(devices: Sequence[str]) -> None:
    """One artifact serves every device, so they must be equal. Raises StartupError."""
    try:
        targets = {msgspec.structs.replace(detect_target(device), device="") for device in devices}
    except CompileError as error:
        raise StartupError(f"{error}: choose another with --device") from error
    if len(targets) > 1:
        names = ", ".join(sorted(target.name for target in targets))
        raise StartupError(f"the GPUs of this machine differ ({names}): choose one with --device cuda:0")


def choose_by_machine(settings: Settings, devices: Sequence[str]) -> Settings:
    """The settings with what depends on cores and devices together."""
    looks_us = choose_busy_poll_us(settings.busy_poll_us, available_cores(), settings.frontends, devices)
    return settings.model_copy(update={"busy_poll_us": str(looks_us)})


def check_access(settings: Settings) -> None:
    """Certificates and tokens are there and can be used. Raises StartupError."""
    try:
        tls = make_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
        if tls is not None:
            check_tls(tls)
        elif settings.metrics_tls:
            raise TlsError("metrics_tls needs tls_certificate and tls_key: give them too")
        if settings.token_file is not None:
            TokenFile(settings.token_file)
    except (TlsError, TokenFileError) as error:
        raise StartupError(str(error)) from error


def bind(settings: Settings) -> tuple[list[socket.socket], Settings]:
    """Listening sockets for the frontends, and the settings with the ports that were free. Raises StartupError."""
    try:
        sockets = listening_sockets(settings.host, settings.http_port, settings.frontends, "--http-port")
        grpc_port = probe_port(settings.host, settings.grpc_port, "--grpc-port")
        metrics_port = settings.metrics_port
        if settings.metrics_sidecar:
            metrics_port = probe_port(settings.host, metrics_port, "--metrics-port")
    except OSError as error:
        raise StartupError(str(error)) from error
    return sockets, settings.model_copy(update={"grpc_port": grpc_port, "metrics_port": metrics_port})


def address_of(settings: Settings, door: str, port: int) -> str:
    """Where `door` (http, grpc or metrics) is reached, as it is shown: a URL, but for gRPC."""
    host = f"{settings.host}:{port}"
    if door == "grpc":
        return host
    is_tls = settings.tls_certificate is not None and (door == "http" or settings.metrics_tls)
    path = settings.http_prefix if door == "http" else "/metrics"
    return f"{'https' if is_tls else 'http'}://{host}{path}"
