"""What runs in a builder process: `python -m compiler.builder NICENESS` reads one job, does it, answers and leaves.

Knows nothing of who asked. Whatever the model prints goes to the log, so that answers have the pipe for themselves.
`isolate.py` is the other side.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from compiler.errors import CompileError
from compiler.jobs import Answer, Build, Built, Describe, Job, Judge, Note, Refused, Report
from compiler.orphan import die_with_parent

SEED = 0


def main() -> None:
    """Take the job from stdin, send notes and one answer to what was stdout."""
    die_with_parent()  # nobody wants the answer any more
    os.nice(int(sys.argv[1]))  # the compilers it starts inherit it
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    job: Job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        answer = perform(job, lambda note: _send(replies, note))
    except CompileError as error:
        traceback.print_exc()
        answer = Refused(type(error).__name__, str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the border: the rest of the tree of errors is on the other side
        traceback.print_exc()
        reason = " ".join(str(error).split())[:500]
        answer = Refused(
            "LoadFailed" if isinstance(job, Describe) else "BuildFailed", f"{type(error).__name__}: {reason}"
        )
    _send(replies, answer)
    sys.stderr.flush()
    # Not sys.exit: threads and destructors of a model's libraries may hang or crash, and the answer is given.
    os._exit(0)


def perform(job: Job, tell: Callable[[Note], None]) -> Answer:
    """Do one job. Imports torch. Raises CompileError, or whatever the model or torch raises."""
    import torch

    torch.manual_seed(SEED)
    if job.options.threads is not None:
        torch.set_num_threads(job.options.threads)
    match job:
        case Describe():
            from compiler.reference import describe

            return describe(job, tell)
        case Build():
            return build(job, tell)
        case Judge():
            from compiler.judge import judge

            return judge(job, tell)


def build(job: Build, tell: Callable[[Note], None]) -> Built:
    """Open the model, bring it to the precision of the rung, and let one backend build its files."""
    from compiler.backends import find_backend
    from compiler.datatypes import set_exact_float32
    from compiler.load import open_model
    from compiler.quantize import quantize

    set_exact_float32()
    place, rung = job.place, job.rung
    tell(Note("build", "opening the model", rung.name))
    backend = find_backend(rung.backend)
    out = Path(job.out)
    out.mkdir(parents=True)
    opened = open_model(Path(place.folder), place.device, place.origin, place.factory)
    tell(Note("quantize", f"bringing it to {rung.precision}", rung.name))
    opened = quantize(opened, job.interface, place, rung, job.options)
    tell(Note("build", "building", rung.name))
    built: Built = backend.build(opened, job.interface, place, out, rung)
    return built


def _send(replies: BinaryIO, report: Report) -> None:
    replies.write(msgspec.json.encode(report) + b"\n")


if __name__ == "__main__":
    main()
