"""Runs one job in a process of its own, so that a crash, a hang or a leak is a sentence and not an outage.

Knows nothing of what a job does, and nothing of torch. `builder.py` is what runs on the other side.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from compiler.errors import BY_NAME, BuilderDied
from compiler.jobs import Answer, Job, Note, Refused, Report

TICK_S = 1.0  # how often the caller hears that time passes, and may stop the work by raising
GRACE_S = 5.0  # a builder that closed its pipe only has to leave
LOG_TAIL_BYTES = 4000
TEMPORARY = "tmp"

KILLED_HINTS = {
    signal.SIGKILL: "usually the kernel, for want of memory",
    signal.SIGSEGV: "a crash in compiled code",
    signal.SIGILL: "code for another processor",
    signal.SIGABRT: "an assertion in compiled code",
}


def run_job(
    job: Job, workspace: Path, timeout_s: float, listen: Callable[[Note | None], None], niceness: int = 0
) -> Answer:
    """The answer of a fresh process to `job`, `niceness` below ours. Its stderr goes to `workspace/build.log`.

    `listen` hears every note, and None each second in between; what it raises stops the process and passes through.
    Raises what the builder refused with, or BuilderDied with the reason, when it gives no answer within `timeout_s`.
    """
    log = workspace / "build.log"
    started_at = log.stat().st_size if log.exists() else 0
    with log.open("ab") as stderr, _started(workspace, stderr.fileno(), niceness) as process:
        assert process.stdin is not None, "opened as a pipe"
        with contextlib.suppress(BrokenPipeError):  # died at once: its exit status tells more
            process.stdin.write(msgspec.json.encode(job))
            process.stdin.close()
        answer = _listen(process, timeout_s, listen)
        if answer is None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # then it is killed, and described as killed
                process.wait(timeout=GRACE_S)
    if answer is None:
        raise BuilderDied(describe_end(process.returncode, _last_line(log, started_at)))
    if isinstance(answer, Refused):
        raise BY_NAME[answer.error](answer.message)
    return answer


def describe_end(status: int, last_line: str = "") -> str:
    """How a process ended without an answer, in words. `status` as subprocess gives it: negative for a signal."""
    if status >= 0:
        said = f": {last_line}" if last_line else ""
        return f"its process ended with exit status {status} before it was done{said}"
    try:
        number = signal.Signals(-status)
    except ValueError:  # a real-time signal has no name
        return f"its process was killed by signal {-status}"
    hint = KILLED_HINTS.get(number)
    return f"its process was killed by {number.name}" + (f" ({hint})" if hint else "")


@contextlib.contextmanager
def _started(workspace: Path, stderr: int, niceness: int) -> Iterator[subprocess.Popen[bytes]]:
    """The builder, in a session of its own; the whole of it is gone afterwards, compilers it started included."""
    (workspace / TEMPORARY).mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "compiler.builder", str(niceness)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=builder_environment(os.environ, workspace),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # nobody is left of its group
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def builder_environment(inherited: Mapping[str, str], workspace: Path) -> dict[str, str]:
    """What a builder inherits, with the caches of the code generators inside the build's own folder."""
    here = str(Path(__file__).resolve().parent.parent)
    paths = [here, *inherited.get("PYTHONPATH", "").split(os.pathsep)]
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        # Their defaults are shared and guessable folders under /tmp, from which code is run.
        "TORCHINDUCTOR_CACHE_DIR": str(workspace / "inductor"),
        "TRITON_CACHE_DIR": str(workspace / "triton"),
        "TMPDIR": str(workspace / TEMPORARY),  # builders leave at once, and so what libraries unpacked there
    }


def _listen(process: subprocess.Popen[bytes], timeout_s: float, listen: Callable[[Note | None], None]) -> Answer | None:
    """Pass notes on until an answer comes; None where the pipe closes without one. Raises BuilderDied out of time."""
    assert process.stdout is not None, "opened as a pipe"
    deadline = time.monotonic() + timeout_s
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if not selector.select(timeout=max(0.0, min(TICK_S, deadline - time.monotonic()))):
                listen(None)
                continue
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                return None
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                report: Report = msgspec.json.decode(line, type=Report)
                if not isinstance(report, Note):
                    return report
                listen(report)
    raise BuilderDied(f"it did not finish within {timeout_s:g} s and was stopped")


def _last_line(log: Path, start: int) -> str:
    """The last line that the process wrote into its log."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - LOG_TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""
