"""For a process that must not outlive its parent, whatever becomes of either: the kernel ends it.

Knows nothing of what the process does. Linux only; elsewhere it is left to notice by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal

PR_SET_PDEATHSIG = 1  # prctl.h


def die_with_parent() -> None:
    """From now on the end of the thread that started this process is the end of this process."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
