"""Certificates for one test run: an authority, a server and a client of it, and a stranger's."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trustme

from service.tls import Tls


class Files(msgspec.Struct, frozen=True):
    """Files in PEM."""

    authority: Path
    certificate: Path
    key: Path
    client: Path  # a certificate with its key
    client_key: Path
    stranger: Path  # the same, of an authority that nobody knows

    @property
    def tls(self) -> Tls:
        return Tls(self.certificate, self.key)

    @property
    def mutual(self) -> Tls:
        return Tls(self.certificate, self.key, self.authority)


def make_certificates(folder: Path) -> Files:
    """Write them to `folder`."""
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    client = authority.issue_cert("client@example.org")
    stranger = trustme.CA().issue_cert("stranger@example.org")
    made = Files(*(folder / f"{name}.pem" for name in Files.__struct_fields__))
    authority.cert_pem.write_to_path(str(made.authority))
    server.cert_chain_pems[0].write_to_path(str(made.certificate))
    server.private_key_pem.write_to_path(str(made.key))
    client.private_key_and_cert_chain_pem.write_to_path(str(made.client))
    client.private_key_pem.write_to_path(str(made.client_key))
    stranger.private_key_and_cert_chain_pem.write_to_path(str(made.stranger))
    return made
