from __future__ import annotations

from pathlib import Path

import pytest

from compiler.isolate import builder_environment, describe_end


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (-9, "its process was killed by SIGKILL (usually the kernel, for want of memory)"),
        (-11, "its process was killed by SIGSEGV (a crash in compiled code)"),
        (-15, "its process was killed by SIGTERM"),
        (-40, "its process was killed by signal 40"),
        (3, "its process ended with exit status 3 before it was done: bye"),
    ],
)
def test_every_end_has_a_sentence(status: int, sentence: str) -> None:
    assert describe_end(status, "bye") == sentence


def test_code_generators_keep_their_caches_in_the_workspace() -> None:
    environment = builder_environment({"PYTHONPATH": "/mine", "TRITON_CACHE_DIR": "/tmp/shared"}, Path("/w"))
    assert environment["TRITON_CACHE_DIR"] == "/w/triton"
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == "/w/inductor"
    assert environment["TMPDIR"] == "/w/tmp"
    assert environment["PYTHONPATH"].endswith(":/mine")
