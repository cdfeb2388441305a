"""Certificates: which files belong together, and whether they can be used, told before anything starts.

Knows no server. `startup.py` checks; `certificates.py` follows the files while the service runs.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec


class TlsError(ValueError):
    """Certificates that cannot be used; the sentence names the setting and the file."""


class Tls(msgspec.Struct, frozen=True):
    """The files of a server's certificate chain, its key, and of the authorities that clients' certificates need."""

    certificate: Path
    key: Path
    client_authority: Path | None = None


def make_tls(certificate: Path | None, key: Path | None, client_authority: Path | None) -> Tls | None:
    """None where no certificate is set. Raises TlsError where one of the files is missing that belong together."""
    if certificate is None and key is None and client_authority is None:
        return None
    if certificate is None or key is None:
        missing = "tls_certificate" if certificate is None else "tls_key"
        given = "tls_key" if key is not None else "tls_certificate" if certificate is not None else "tls_client_ca"
        raise TlsError(f"{given} needs {missing}: give both, or neither")
    return Tls(certificate, key, client_authority)


def check_tls(tls: Tls) -> ssl.SSLContext:
    """The files as a server's context, having been tried. Raises TlsError."""
    for setting, path in (
        ("tls_certificate", tls.certificate),
        ("tls_key", tls.key),
        ("tls_client_ca", tls.client_authority),
    ):
        if path is not None:
            _check_file(setting, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password openssl asks for one at the terminal, and waits.
        context.load_cert_chain(tls.certificate, tls.key, password=_refuse_password)
    except _Encrypted as error:
        raise TlsError(
            f"tls_key {tls.key} is encrypted: give a key that is not, readable by the server alone"
        ) from error
    except ssl.SSLError as error:
        raise TlsError(_pair_sentence(tls, error)) from error
    if tls.client_authority is not None:
        try:
            context.load_verify_locations(tls.client_authority)
        except ssl.SSLError as error:
            raise TlsError(f"tls_client_ca {tls.client_authority} holds no certificate in PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Encrypted(Exception):
    """The key asks for a password."""


def _refuse_password() -> str:
    raise _Encrypted


def _check_file(setting: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise TlsError(f"{setting} {path} cannot be read: {error.strerror}") from error


def _pair_sentence(tls: Tls, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"tls_key {tls.key} is not the key of the certificate in tls_certificate {tls.certificate}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(tls.certificate)
    except ssl.SSLError:
        return f"tls_certificate {tls.certificate} holds no certificate in PEM"
    return f"tls_key {tls.key} holds no private key in PEM that this OpenSSL can use"
