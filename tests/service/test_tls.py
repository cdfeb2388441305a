"""TLS: certificates that cannot be used are told before anything starts; both doors and the metrics speak it."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from service.certificates import Certificates
from service.client.rest import RestClient
from service.client.rpc import RpcClient
from service.observe.sidecar import arguments_of, publish
from service.security import TokenFile, token_line
from service.settings import Settings
from service.startup import StartupError, address_of, check_access
from service.tls import Tls, TlsError, check_tls, make_tls
from tests.service.certificates import Files, make_certificates
from tests.service.doors import Doors

ROWS = [[1.0, 2.5, -3.0]]
DOUBLED = [[2.0, 5.0, -6.0]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_sound_certificates_are_taken(files: Files) -> None:
    assert check_tls(files.tls).verify_mode is ssl.CERT_NONE
    assert check_tls(files.mutual).verify_mode is ssl.CERT_REQUIRED


def refusal(tls: Tls) -> str:
    with pytest.raises(TlsError) as caught:
        check_tls(tls)
    return str(caught.value)


def test_a_file_that_is_missing_is_named(files: Files) -> None:
    nowhere = Path("/nowhere.pem")
    assert refusal(Tls(nowhere, files.key)) == "tls_certificate /nowhere.pem cannot be read: No such file or directory"
    assert refusal(Tls(files.certificate, nowhere)).startswith("tls_key /nowhere.pem cannot be read")
    assert refusal(Tls(files.certificate, files.key, nowhere)).startswith("tls_client_ca /nowhere.pem cannot be read")


def test_a_file_that_holds_something_else_is_named(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text("not PEM")
    assert refusal(Tls(other, files.key)) == f"tls_certificate {other} holds no certificate in PEM"
    assert refusal(Tls(files.certificate, other)).startswith(f"tls_key {other} holds no private key in PEM")
    assert refusal(Tls(files.certificate, files.key, other)) == f"tls_client_ca {other} holds no certificate in PEM"


def test_a_key_of_another_certificate_is_told(files: Files) -> None:
    assert "is not the key of the certificate in tls_certificate" in refusal(Tls(files.certificate, files.client_key))


def test_an_encrypted_key_is_told_and_nobody_is_asked_for_a_password(files: Files, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(files.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret"))
    )
    assert f"tls_key {locked} is encrypted" in refusal(Tls(files.certificate, locked))


def test_what_belongs_together_is_asked_for(files: Files) -> None:
    assert make_tls(None, None, None) is None
    for given, sentence in (
        ((files.certificate, None, None), "tls_certificate needs tls_key"),
        ((None, files.key, None), "tls_key needs tls_certificate"),
        ((None, None, files.authority), "tls_client_ca needs tls_certificate"),
    ):
        with pytest.raises(TlsError, match=sentence):
            make_tls(*given)


def test_the_service_does_not_start_with_what_cannot_be_used(files: Files, tmp_path: Path) -> None:
    for settings, sentence in (
        ({"tls_certificate": files.certificate}, "tls_certificate needs tls_key"),
        ({"tls_certificate": files.certificate, "tls_key": files.client_key}, "is not the key"),
        ({"metrics_tls": True}, "metrics_tls needs tls_certificate and tls_key"),
        ({"token_file": tmp_path / "nowhere"}, "cannot be read"),
    ):
        with pytest.raises(StartupError, match=sentence):
            check_access(Settings(**settings))  # type: ignore[arg-type]
    check_access(Settings())
    check_access(Settings(tls_certificate=files.certificate, tls_key=files.key, metrics_tls=True))


def test_addresses_say_how_the_doors_are_reached(files: Files) -> None:
    plain = Settings()
    secured = Settings(tls_certificate=files.certificate, tls_key=files.key, http_prefix="/ai")
    assert [address_of(plain, door, 1) for door in ("http", "grpc", "metrics")] == [
        "http://127.0.0.1:1",
        "127.0.0.1:1",
        "http://127.0.0.1:1/metrics",
    ]
    assert address_of(secured, "http", 1) == "https://127.0.0.1:1/ai"
    assert address_of(secured, "metrics", 1) == "http://127.0.0.1:1/metrics"


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"{token_line('right', ['infer'])}\n{token_line('scraper', ['metrics'])}")
    return path


def test_unmodified_clients_and_ours_infer_over_tls_with_a_token(files: Files, token_file: Path) -> None:
    with Doors(Certificates(files.tls), token_file).open() as doors:
        assert doors.ask(files.authority, "right") == {"http": DOUBLED, "grpc": DOUBLED}
        rows = np.array(ROWS, np.float32)
        with RestClient(f"https://localhost:{doors.http_port}", token="right", authority=files.authority) as rest:
            assert rest.infer("double", {"x": rows})["y"].tolist() == DOUBLED
        with RpcClient(f"grpcs://localhost:{doors.grpc_port}", token="right", authority=files.authority) as rpc:
            assert rpc.is_ready() is False, "a model still loads"
            assert rpc.infer("double", {"x": rows})["y"].tolist() == DOUBLED
        wrong = doors.ask(files.authority, "wrong")
        assert wrong == {"http": "InferenceServerException", "grpc": "InferenceServerException"}


def test_mutual_tls_lets_in_those_with_a_certificate_alone(files: Files, token_file: Path) -> None:
    with Doors(Certificates(files.mutual), token_file).open() as doors:
        own = (files.client, files.client_key)
        assert doors.ask(files.authority, "right", *own) == {"http": DOUBLED, "grpc": DOUBLED}
        without = doors.ask(files.authority, "right")
        assert DOUBLED not in without.values()
        context = ssl.create_default_context(cafile=str(files.authority))
        context.load_cert_chain(files.stranger)
        with pytest.raises((ssl.SSLError, ConnectionError, urllib.error.URLError)):
            urllib.request.urlopen(f"https://localhost:{doors.http_port}/v2/health/live", context=context, timeout=10)


def scrape(url: str, authority: Path | None, token: str = "") -> str:
    context = ssl.create_default_context(cafile=str(authority)) if authority is not None else None
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(asked, context=context, timeout=10) as answer:
        return str(answer.read().decode())


def test_metrics_over_tls_for_those_with_the_scope(files: Files, token_file: Path, tmp_path: Path) -> None:
    server = publish(tmp_path, "127.0.0.1", 0, files.tls, TokenFile(token_file))
    url = f"https://localhost:{server.server_port}/metrics"
    try:
        scrape(url, files.authority, "scraper")
        for token, status in (("", 401), ("wrong", 401), ("right", 403)):
            with pytest.raises(urllib.error.HTTPError) as caught:
                scrape(url, files.authority, token)
            assert caught.value.code == status
            assert "token" in json.loads(caught.value.read())["error"]
            caught.value.close()
        with socket.create_connection(("127.0.0.1", server.server_port)):  # says nothing, and holds up nobody
            scrape(url, files.authority, "scraper")
    finally:
        server.shutdown()
        server.server_close()


def test_the_sidecars_command_line_holds_what_is_set() -> None:
    assert arguments_of(Path("d"), "h", 1, tls_key=None, token_file=Path("t")) == (
        *("--directory", "d", "--host", "h", "--port", "1"),
        *("--token-file", "t"),
    )
