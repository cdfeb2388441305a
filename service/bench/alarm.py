"""A timer that is right to some tens of microseconds, for an event loop whose own timers count milliseconds.

Linux's timerfd through libc, since Python has it from 3.13 on only. Knows nothing of load; `pacers.py` sets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Callable

CLOCK_MONOTONIC, TFD_NONBLOCK, TFD_TIMER_ABSTIME = 1, os.O_NONBLOCK, 1  # linux/timerfd.h
EXPIRATIONS_BYTES = 8


class _Moment(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("again_s", "again_ns", "seconds", "nanoseconds"))


class Alarm:
    """`alarm.set(moment_ns)` calls `ring` once at that moment of CLOCK_MONOTONIC, or at once where it has passed."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._rang)

    def set(self, moment_ns: int) -> None:
        at_ns = max(moment_ns, time.monotonic_ns() + 1)  # zero would disarm it
        moment = _Moment(0, 0, at_ns // 1_000_000_000, at_ns % 1_000_000_000)
        if self._libc.timerfd_settime(self._descriptor, TFD_TIMER_ABSTIME, ctypes.byref(moment), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _rang(self) -> None:
        with contextlib.suppress(BlockingIOError):  # set anew between the wake-up and now
            os.read(self._descriptor, EXPIRATIONS_BYTES)
            self._ring()
