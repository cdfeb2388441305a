"""A server's certificates while it runs: who connects gets what the files hold now, though they were renewed meanwhile.

Knows no server: HTTP and the metrics take `context`, `rpc/server.py` asks `current` at each handshake. `tls.py` reads.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable

import msgspec

from service.tls import Tls, TlsError, check_tls

log = logging.getLogger("torchere.tls")

LOOK_EVERY_S = 1.0  # renewed files are seen so soon; to look at them costs some microseconds of a handshake's thousand

Stamp = tuple[tuple[int, ...], ...]


class Held(msgspec.Struct, frozen=True):
    """What the files held when they were read: as a context of OpenSSL, and as the bytes that gRPC takes."""

    context: ssl.SSLContext
    certificate: bytes
    key: bytes
    client_authority: bytes | None


class Certificates:
    """The files of `tls`, read again as they change; what cannot be used then changes nothing. For any thread.

    Raises TlsError where they cannot be used at the start.
    """

    def __init__(self, tls: Tls, clock: Callable[[], float] = time.monotonic) -> None:
        self._tls = tls
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = clock()
        self._stamp = _look(tls)
        self._held = _read(tls)
        self.context = _follower(tls, self)

    def __repr__(self) -> str:
        return f"<Certificates {self._tls.certificate}{', mutual' if self.is_mutual else ''}>"

    @property
    def is_mutual(self) -> bool:
        """Whether clients need certificates."""
        return self._tls.client_authority is not None

    def current(self) -> Held:
        """What holds now: the same object until the files have changed."""
        with self._lock:
            now = self._clock()
            if now - self._looked >= LOOK_EVERY_S:
                self._looked = now
                self._follow()
            return self._held

    def _follow(self) -> None:
        stamp = _look(self._tls)
        if stamp == self._stamp:
            return
        try:
            held = _read(self._tls)
        except TlsError as error:
            self._stamp = stamp  # told of once
            log.error("the certificates have changed and cannot be used: %s; those before hold on", error)
            return
        if _look(self._tls) == stamp:  # or they are being written, and the next look takes them
            self._stamp, self._held = stamp, held
            log.info("the certificate in %s has been renewed", self._tls.certificate)


def _follower(tls: Tls, certificates: Certificates) -> ssl.SSLContext:
    """A context that leaves each handshake to the newest. OpenSSL asks before it chooses a certificate."""
    context = check_tls(tls)
    if tls.client_authority is not None:
        # A session that is resumed shows no certificate: whose authority is gone would come in by it for two hours.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, own: ssl.SSLContext) -> None:
        connection.context = certificates.current().context

    context.sni_callback = choose
    return context


def _look(tls: Tls) -> Stamp:
    """What changes as the files do. Follows links: Kubernetes swaps one when a secret changes."""
    stamps = []
    for path in (tls.certificate, tls.key, tls.client_authority):
        try:
            found = path.stat() if path is not None else None
        except OSError:
            found = None  # to read it says why
        stamps.append((found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else ())
    return tuple(stamps)


def _read(tls: Tls) -> Held:
    try:
        context = check_tls(tls)
        authority = tls.client_authority.read_bytes() if tls.client_authority is not None else None
        return Held(context, tls.certificate.read_bytes(), tls.key.read_bytes(), authority)
    except OSError as error:
        raise TlsError(f"the certificates cannot be read: {error.strerror}") from error
