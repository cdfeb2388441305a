"""Certificates are renewed while both doors and the metrics are open: who connects then gets the new ones."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from service.certificates import LOOK_EVERY_S, Certificates
from service.cli import main
from service.client.rest import RestClient
from service.client.rpc import RpcClient
from service.errors import Unavailable
from service.observe.metrics_server import serve_metrics
from service.security import token_line
from service.tls import TlsError
from tests.service.certificates import Files, make_certificates
from tests.service.doors import Doors

ROWS = np.array([[1.0, 2.5, -3.0]], np.float32)
DOUBLED = [[2.0, 5.0, -6.0]]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Files]:
    """Of two authorities that know nothing of each other."""
    old, new = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    return make_certificates(old), make_certificates(new)


def mounted(files: Files, folder: Path) -> Files:
    """The files as the server is given them: copies, which are renewed in place."""
    for path in paths_of(files):
        shutil.copy(path, folder / path.name)
    return Files(*(folder / path.name for path in paths_of(files)))


def paths_of(files: Files) -> list[Path]:
    return [getattr(files, name) for name in Files.__struct_fields__]


def ask(doors: Doors, own: Files) -> list[object]:
    """What each door answers to a client of this authority, or that it does not let it in."""
    told: list[object] = []
    known = {"authority": own.authority, "certificate": own.client, "key": own.client_key, "token": "right"}
    with RestClient(f"https://localhost:{doors.http_port}", **known) as rest:  # type: ignore[arg-type]
        try:
            told.append(rest.infer("double", {"x": ROWS})["y"].tolist())
        except Unavailable:
            told.append(None)
    with RpcClient(f"grpcs://localhost:{doors.grpc_port}", **known) as rpc:  # type: ignore[arg-type]
        try:
            told.append(rpc.infer("double", {"x": ROWS})["y"].tolist())
        except Unavailable:
            told.append(None)
    return told


def test_both_doors_follow_the_servers_certificate_and_the_clients_authority(
    made: tuple[Files, Files], tmp_path: Path, clock: Clock
) -> None:
    old, new = made
    served = mounted(old, tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("right", ["infer"]))
    with Doors(Certificates(served.mutual, clock), tokens).open() as doors:
        assert ask(doors, old) == [DOUBLED, DOUBLED]
        assert ask(doors, new) == [None, None]
        with RestClient(
            f"https://localhost:{doors.http_port}",
            **{"authority": old.authority, "certificate": old.client, "key": old.client_key},  # type: ignore[arg-type]
            token="right",
        ) as open_before:
            open_before.infer("double", {"x": ROWS})
            mounted(new, tmp_path)
            assert ask(doors, old) == [DOUBLED, DOUBLED], "looked at once a second"
            clock.now += LOOK_EVERY_S
            assert ask(doors, new) == [DOUBLED, DOUBLED]
            assert ask(doors, old) == [None, None]
            assert open_before.infer("double", {"x": ROWS})["y"].tolist() == DOUBLED, "connections live on"


def test_who_showed_a_certificate_shows_it_again_at_the_next_connection(made: tuple[Files, Files]) -> None:
    """A session that is resumed shows none, so that an authority which is gone would still let its clients in."""
    own = made[0]
    server = Certificates(own.mutual).context
    client = ssl.create_default_context(cafile=str(own.authority))
    client.load_cert_chain(own.client)
    for client.maximum_version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
        session = shake_hands(server, client, None)
        assert session is None or not session.has_ticket
        shake_hands(server, client, session)


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None
) -> ssl.SSLSession | None:
    """In memory; what the client may try to resume by."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(up, down, server_side=True)
    here = client.wrap_bio(down, up, server_hostname="localhost", session=session)
    waiting = [here, there]
    while waiting:
        for side in tuple(waiting):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
                waiting.remove(side)
    there.write(b"hello")
    assert here.read(5) == b"hello", "what comes with it has been read too"
    assert not there.session_reused
    return here.session


def test_the_metrics_follow_too(
    made: tuple[Files, Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    old, new = made
    served = mounted(old, tmp_path)
    monkeypatch.setattr("service.certificates.LOOK_EVERY_S", 0.0)
    server = serve_metrics(lambda accept: ("text/plain", b"told"), "127.0.0.1", 0, served.tls)
    try:
        for files, other in ((old, new), (new, old)):
            mounted(files, tmp_path)
            assert is_trusted(server.server_port, files)
            assert not is_trusted(server.server_port, other)
    finally:
        server.shutdown()
        server.server_close()


def command(*words: str | Path, **environment: Path) -> tuple[int, str]:
    """The exit code of a command and what it said."""
    done = CliRunner().invoke(main, [*map(str, words)], env={name: str(path) for name, path in environment.items()})
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def mutual(made: tuple[Files, Files], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(token_line("right", ["infer", "read"]))
    with Doors(Certificates(made[0].mutual), tokens).open() as doors:
        yield doors


def test_the_health_of_a_server_that_wants_certificates(made: tuple[Files, Files], mutual: Doors) -> None:
    own, other = made
    server = ("--http-port", str(mutual.http_port), "--tls-certificate", own.certificate, "--tls-key", own.key)
    ask = ("health", "--live", *server)
    assert command(*ask)[0] == 1, "nobody told that clients need certificates"
    assert command(*ask, "--tls-client-ca", own.authority) == (0, ""), "its own will do"
    assert command(*ask, "--cert", own.client) == (0, "")
    assert command(*ask, TORCHERE_CLIENT_CERT=own.client, TORCHERE_CLIENT_KEY=own.client_key) == (0, "")
    code, said = command(*ask, "--cert", other.client)
    assert (code, "does not answer" in said) == (1, True)
    code, said = command(*ask, "--cert", own.client, "--key", other.client_key)
    assert (code, f"the certificate {own.client} and its key {other.client_key} cannot be used" in said) == (1, True)


def test_the_command_line_shows_a_certificate(made: tuple[Files, Files], mutual: Doors) -> None:
    own, other = made
    ask = ("models", "--url", f"https://localhost:{mutual.http_port}", "--cacert", own.authority)
    assert command(*ask)[0] == 1
    shown = {"TORCHERE_CLIENT_CERT": own.client, "TORCHERE_TOKEN": Path("right")}
    code, said = command(*ask, **shown)
    assert (code, "double" in said) == (0, True), said
    code, said = command(*ask, "--cert", own.client, "--key", other.client_key)
    sentence = f"--cacert {own.authority}, --cert {own.client}, --key {other.client_key} cannot be used"
    assert (code, sentence in said.replace("\n", "")) == (1, True), said


def is_trusted(port: int, by: Files) -> bool:
    context = ssl.create_default_context(cafile=str(by.authority))
    with socket.create_connection(("localhost", port), timeout=10) as connection:
        try:
            context.wrap_socket(connection, server_hostname="localhost").close()
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_what_cannot_be_used_changes_nothing_and_is_told_of_once(
    made: tuple[Files, Files], tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = made
    served = mounted(old, tmp_path)
    certificates = Certificates(served.tls, clock)
    first = certificates.current()
    with caplog.at_level(logging.INFO, "torchere.tls"):
        for break_it in (
            lambda: shutil.copy(new.key, served.key),  # half of a renewal
            lambda: served.certificate.write_text("not PEM"),
            served.certificate.unlink,
        ):
            break_it()
            for _ in range(2):
                clock.now += LOOK_EVERY_S
                assert certificates.current() is first
        assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
        assert "is not the key of the certificate" in caplog.records[0].getMessage()
        caplog.clear()
        mounted(new, tmp_path)
        clock.now += LOOK_EVERY_S
        assert certificates.current().certificate == new.certificate.read_bytes()
        assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_link_that_is_swapped_is_seen(made: tuple[Files, Files], tmp_path: Path, clock: Clock) -> None:
    """Kubernetes renews a mounted secret so."""
    for files, name in zip(made, ("old", "new"), strict=True):
        (tmp_path / name).mkdir()
        mounted(files, tmp_path / name)
    (tmp_path / "data").symlink_to("old")
    served = Files(*(tmp_path / "data" / path.name for path in paths_of(made[0])))
    certificates = Certificates(served.mutual, clock)
    (tmp_path / "data").unlink()
    (tmp_path / "data").symlink_to("new")
    clock.now += LOOK_EVERY_S
    assert certificates.current().client_authority == made[1].authority.read_bytes()


def test_what_cannot_be_used_at_the_start_is_told(made: tuple[Files, Files], tmp_path: Path) -> None:
    served = mounted(made[0], tmp_path)
    shutil.copy(made[1].key, served.key)
    with pytest.raises(TlsError, match="is not the key"):
        Certificates(served.tls)
