"""A child process that says it has started, and leaves as it is told to. Not a test."""

from __future__ import annotations

import os

from service.engine.link import BlockingLink, inherited_socket
from service.engine.messages import Drain, SetLogging, Started

if __name__ == "__main__":
    link: BlockingLink[Drain | SetLogging] = BlockingLink(inherited_socket(), Drain | SetLogging)  # type: ignore[arg-type]
    link.send(Started(os.getpid()))
    for message in link:
        if isinstance(message, Drain):
            break
