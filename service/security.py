"""Who may do what: tokens with scopes, and groups of APIs that are closed. Decides; what asks is told in a sentence.

Knows no HTTP and no gRPC: `rest/operations.py` and `rpc/guard.py` say what a call is, and bring its headers.

    guard.check(Operation("inference", "infer"), headers.get)     # raises Unauthenticated or Forbidden
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from service.errors import Forbidden, Unauthenticated

log = logging.getLogger("torchere.frontend")

Scope = Literal["infer", "read", "control", "metrics"]
# As Triton names them in --http-restricted-api and --grpc-restricted-protocol.
Group = Literal[
    "health",
    "metadata",
    "inference",
    "shared-memory",
    "model-config",
    "model-repository",
    "statistics",
    "trace",
    "logging",
]
SCOPES: tuple[str, ...] = get_args(Scope)
GROUPS: tuple[str, ...] = get_args(Group)

LINE = re.compile(r"sha256:([0-9a-fA-F]{64})\s+(\S+)(?:\s+(.*))?")
RESTRICTION = re.compile(r"([a-z-]+)(?::([A-Za-z0-9!#$%&'*+.^_`|~-]+)=(.+))?")
MAX_TOKENS = 256  # each is compared with what a request brings, so that the time tells nothing: 40 us for so many
LOOK_EVERY_S = 1.0  # a changed file is seen so soon; to look at it costs two microseconds
BEARER = "bearer "

Header = Callable[[str], str | None]


class Operation(msgspec.Struct, frozen=True):
    """What a call does: the group by which it may be closed, and the scope its token needs; None: it needs none."""

    group: Group
    scope: Scope | None


class Token(msgspec.Struct, frozen=True):
    """The SHA-256 digest of a token, and what it lets its bearer do."""

    digest: bytes
    scopes: frozenset[str]


class Restriction(msgspec.Struct, frozen=True):
    """A group that is closed; with `header`, but for requests that bring it with this value."""

    group: str
    header: str = ""
    value: str = ""


class TokenFileError(ValueError):
    """A file of tokens that cannot be used; says the line, and never a token."""


def digest_of(token: str) -> bytes:
    """What the file holds in place of the token: whoever reads it has none."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def token_line(token: str, scopes: Sequence[str]) -> str:
    """The line of the file that lets the bearer of `token` in."""
    return f"sha256:{digest_of(token).hex()} {','.join(scopes)}"


def append_line(path: Path, line: str) -> None:
    """Add a line to a token file, made for its owner's eyes where there is none. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        is_whole = file.read(1) in (b"", b"\n")
        file.write(f"{'' if is_whole else chr(10)}{line}\n".encode())


def read_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a file's text. Raises TokenFileError.

    >>> read_tokens("sha256:9f86d081884c7d65... infer,read   the web shop")
    (Token(...),)
    """
    tokens = []
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        found = LINE.fullmatch(stripped)
        if found is None:
            raise TokenFileError(
                f"line {number}: write sha256:DIGEST SCOPES, as `torchere token` prints it (a token itself never "
                "stands here)"
            )
        scopes = found[2].split(",")
        unknown = next((scope for scope in scopes if scope not in SCOPES), None)
        if unknown is not None:
            raise TokenFileError(f"line {number}: '{unknown[:20]}' is no scope: choose of {', '.join(SCOPES)}")
        tokens.append(Token(bytes.fromhex(found[1]), frozenset(scopes)))
    if len(tokens) > MAX_TOKENS:
        raise TokenFileError(f"it holds {len(tokens)} tokens, {MAX_TOKENS} are the most: let clients share some")
    return tuple(tokens)


def read_restriction(text: str) -> Restriction:
    """`GROUP` or `GROUP:HEADER=VALUE`. Raises ValueError."""
    found = RESTRICTION.fullmatch(text)
    if found is None:
        raise ValueError("must be GROUP or GROUP:HEADER=VALUE, one group in each")  # never repeats a value
    if found[1] not in GROUPS:
        raise ValueError(f"'{found[1]}' is no group of APIs: choose of {', '.join(GROUPS)}")
    return Restriction(found[1], (found[2] or "").lower(), found[3] or "")


class TokenFile:
    """The tokens of a file, read again as it changes; a file that cannot be used then changes nothing."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._stamp = self._look()
        self._tokens = self._read()

    def __repr__(self) -> str:
        return f"<TokenFile {self._path} {len(self._tokens)} tokens>"

    @property
    def tokens(self) -> tuple[Token, ...]:
        now = self._clock()
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._follow()
        return self._tokens

    def _follow(self) -> None:
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._tokens = self._read()
            log.info("the token file has changed: %d tokens hold now", len(self._tokens))
        except TokenFileError as error:
            log.error("the token file has changed and cannot be used: %s; the tokens before hold on", error)

    def _look(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()  # follows links: Kubernetes swaps a link when a secret changes
        except OSError as error:
            raise TokenFileError(f"the token file {self._path} cannot be read: {error.strerror}") from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[Token, ...]:
        try:
            return read_tokens(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise TokenFileError(f"the token file {self._path} cannot be read: {reason}") from error
        except TokenFileError as error:
            raise TokenFileError(f"{self._path}: {error}") from error


class Guard:
    """`guard.check(operation, header)`; `tokens` None: nobody needs one."""

    def __init__(self, tokens: TokenFile | None, restrictions: Sequence[Restriction] = ()) -> None:
        self._tokens = tokens
        self._restrictions = restrictions

    def __repr__(self) -> str:
        return f"<Guard {self._tokens!r}, restricted: {[each.group for each in self._restrictions]}>"

    def check(self, operation: Operation, header: Header) -> None:
        """Let it pass, or raise Unauthenticated or Forbidden. `header("authorization")` is that of the call."""
        self.check_token(operation, header)
        self.check_restrictions(operation, header)

    def check_token(self, operation: Operation, header: Header) -> None:
        """Raises Unauthenticated, or Forbidden where the token's scopes do not suffice."""
        if self._tokens is not None and operation.scope is not None:
            _check_bearer(self._tokens.tokens, operation.scope, header("authorization"))

    def check_restrictions(self, operation: Operation, header: Header) -> None:
        """Raises Forbidden where the group is closed to this call."""
        for each in self._restrictions:
            if each.group != operation.group:
                continue
            if not each.header:
                raise Forbidden(f"This API is restricted: {each.group} is closed on this server")
            if not hmac.compare_digest((header(each.header) or "").encode(), each.value.encode()):
                raise Forbidden(f"This API is restricted, expecting header '{each.header}'")


def _check_bearer(tokens: Sequence[Token], scope: str, authorization: str | None) -> None:
    if authorization is None:
        raise Unauthenticated("a token is missing: send the header Authorization: Bearer TOKEN")
    if authorization[: len(BEARER)].lower() != BEARER:
        raise Unauthenticated("the header Authorization must be Bearer and a token")
    found = _find(tokens, digest_of(authorization[len(BEARER) :].strip()))
    if found is None:
        raise Unauthenticated("the token is not known to this server: ask its operator for another")
    if scope not in found:
        own = ", ".join(sorted(found))
        raise Forbidden(f"the token lacks the scope '{scope}' that this needs: it has {own}")


def _find(tokens: Sequence[Token], digest: bytes) -> frozenset[str] | None:
    """The scopes of the token with this digest; compares with every one, in the same time."""
    scopes = None
    for token in tokens:
        if hmac.compare_digest(token.digest, digest):
            scopes = token.scopes if scopes is None else scopes | token.scopes
    return scopes


def make_guard(token_file: Path | None, restricted: Sequence[str]) -> Guard | None:
    """The guard of a server with these settings; None: it guards nothing. Raises TokenFileError."""
    if token_file is None and not restricted:
        return None
    tokens = TokenFile(token_file) if token_file is not None else None
    return Guard(tokens, [read_restriction(each) for each in restricted])
