"""A port in use is told with the flag that changes it, before anything starts."""

import socket

import pytest

from service.ports import listening_sockets, probe_port


def test_a_free_port_is_found_for_zero() -> None:
    assert probe_port("127.0.0.1", 0, "--http-port") > 0


def test_a_port_in_use_names_the_flag() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="choose another with --grpc-port"):
            probe_port("127.0.0.1", taken.getsockname()[1], "--grpc-port")


def test_several_frontends_share_one_port() -> None:
    sockets = listening_sockets("127.0.0.1", 0, 3, "--http-port")
    assert len({each.getsockname() for each in sockets}) == 1
    for each in sockets:
        each.close()


def test_an_unknown_host_names_the_flag() -> None:
    with pytest.raises(OSError, match="choose another with --host"):
        probe_port("host.invalid", 0, "--http-port")
