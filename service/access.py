"""Who may ask for what, and over what: certificates, tokens, closed APIs, the prefix of paths, each a setting.

Knows nothing of how: `security.py` decides, `tls.py` reads certificates. `settings.py` has the fields.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from service.security import read_restriction

PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")


def _expand(path: Path | None) -> Path | None:
    return path.expanduser() if path is not None else None


def _check_prefix(prefix: str) -> str:
    prefix = prefix.rstrip("/")
    if not PREFIX.fullmatch(prefix):
        raise ValueError(f"must be a path as /models/a, of letters, digits, '.', '_', '~' and '-', not '{prefix}'")
    return prefix


def _check_restrictions(given: tuple[str, ...]) -> tuple[str, ...]:
    for each in given:
        read_restriction(each)
    return given


File = Annotated[Path | None, AfterValidator(_expand)]

Certificate = Annotated[
    File, Field(description="TLS for HTTP and gRPC: the file of the server's certificate chain, as PEM.")
]
Key = Annotated[File, Field(description="TLS: the file of the certificate's private key, as PEM, not encrypted.")]
ClientAuthority = Annotated[
    File,
    Field(description="Mutual TLS: only clients with a certificate of an authority in this file, as PEM, are let in."),
]
MetricsTls = Annotated[bool, Field(description="TLS on the metrics port too, with the same files.")]
TokenFile = Annotated[
    File,
    Field(description="File of the tokens that let clients in, as docs/security.md says. None: everybody is let in."),
]
RestrictedApis = Annotated[
    tuple[str, ...],
    AfterValidator(_check_restrictions),
    Field(
        description="Close a group of APIs (health, metadata, inference, model-config, model-repository, statistics, "
        "shared-memory, trace, logging), or, as GROUP:HEADER=VALUE, ask requests to it for that header."
    ),
]
RestrictedStatus = Annotated[
    Literal["forbidden", "unavailable"],
    Field(description="How gRPC refuses a restricted API: PERMISSION_DENIED, or UNAVAILABLE as Triton does."),
]
QueueFullStatus = Annotated[
    Literal["unavailable", "exhausted"],
    Field(
        description="How a full queue refuses: unavailable: 503 and UNAVAILABLE, which clients try again; exhausted: "
        "429 and RESOURCE_EXHAUSTED."
    ),
]
GrpcBacklog = Annotated[
    int,
    Field(
        ge=100,  # on one connection, as clients rely on
        le=1_000_000,
        description="gRPC calls that wait in a frontend unread, before new ones end as CANCELLED, and calls at a time "
        "of one connection, whose client waits itself with more. Fewer where deadlines are short: docs/guarantees.md.",
    ),
]
HttpPrefix = Annotated[
    str, AfterValidator(_check_prefix), Field(description="Every HTTP path begins with this, as /models/a.")
]
