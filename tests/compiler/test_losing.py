"""Candidates that lose their rung and nothing else: killed, wrong, without what they need; models that fit no rung."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from compiler import Artifact, Cache, Options, Progress, Target, compile, find_source
from compiler.backends import torchscript
from compiler.errors import BuildFailed, LoadFailed, NoCandidate
from compiler.jobs import Interface, Place
from compiler.load import open_model
from compiler.spec import Rung, TensorSpec
from compiler.tools import is_current
from tests.compiler.attempts import FAST, X, odd, outcomes


def test_a_backend_that_is_killed_loses_only_its_rung(attempt: Callable[..., Artifact]) -> None:
    artifact = attempt(odd("torch.jit.is_tracing() and os.kill(os.getpid(), signal.SIGKILL); return x * self.weight"))
    assert outcomes(artifact) == {"eager": "chosen", "torchscript": "failed"}
    assert "killed by SIGKILL" in artifact.manifest.ladder[1].reason


KILLED_AFTER_ITS_FIRST_PROCESS = """
        if not torch.jit.is_tracing():
            with open(__file__ + ".pid", "a+") as marker:
                marker.seek(0)
                if marker.read() not in ("", str(os.getpid())):
                    os.kill(os.getpid(), signal.SIGKILL)
                marker.truncate(0)
                marker.write(str(os.getpid()))
        return x * self.weight
"""


def test_a_candidate_that_takes_the_judge_down_loses_only_its_rung(
    attempt: Callable[..., Artifact], tmp_path: Path
) -> None:
    text = odd(KILLED_AFTER_ITS_FIRST_PROCESS.strip()).replace("__file__", repr(str(tmp_path / "marker")))
    artifact = attempt(text, Options(inputs=(TensorSpec("x", "FP32", (4,)),), backends=("eager", "torchscript")))
    assert outcomes(artifact) == {"eager": "failed", "torchscript": "chosen"}
    assert "while it was compared with the reference, its process was killed" in artifact.manifest.ladder[0].reason


def test_a_dataclass_in_a_model_file_finds_its_module(write_model: Callable[..., Path]) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass, KW_ONLY\nimport torch\n"
    text += "@dataclass\nclass Size:\n    width: int = 3\n"
    text += "def create_model():\n    return torch.nn.Linear(4, Size().width)\n"
    assert open_model(write_model(text), "cpu").module(torch.ones(1, 4)).shape == (1, 3)


def test_a_candidate_that_computes_something_else_is_rejected(attempt: Callable[..., Artifact]) -> None:
    artifact = attempt(odd("return x * (1.01 if torch.jit.is_tracing() else 1.0)"))
    assert outcomes(artifact) == {"eager": "chosen", "torchscript": "inaccurate"}
    assert "differs from the reference by 0.01" in artifact.manifest.ladder[1].reason
    assert artifact.manifest.ladder[1].errors[0].relative_l2 == pytest.approx(0.01, rel=1e-3)


def test_a_decision_on_data_is_never_frozen(write_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_model(odd("return x * self.weight if x.abs().max() < 1e6 else x * 0"))
    interface = Interface((X,), (TensorSpec("output", "FP32", (-1, 4)),), 4, (1, 2, 4))
    place = Place(str(folder), str(folder), "cpu")
    with pytest.raises(BuildFailed, match="tracing would freeze a decision"):
        torchscript.build(open_model(folder, "cpu"), interface, place, tmp_path, Rung("torchscript"))


def test_no_candidate_names_every_reason(attempt: Callable[..., Artifact]) -> None:
    options = msgspec.structs.replace(FAST, backends=("torchscript",), strict=True)
    with pytest.raises(NoCandidate, match=r"torchscript fp32: at batch 1: output 'output' has NaN"):
        attempt(odd("return x * (float('nan') if torch.jit.is_tracing() else 1.0)"), options)


def test_without_a_compiler_the_rung_is_skipped_until_there_is_one(
    attempt: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = msgspec.structs.replace(FAST, backends=("eager", "inductor"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    artifact = attempt(odd(), options)
    assert outcomes(artifact) == {"eager": "chosen", "inductor": "skipped"}
    assert artifact.manifest.ladder[1].reason == "inductor needs a C++ compiler: install g++"
    assert is_current(artifact.manifest)
    monkeypatch.setenv("CXX", sys.executable)
    assert not is_current(artifact.manifest)


def test_a_listener_that_raises_stops_the_work(write_model: Callable[..., Path], target: Target, cache: Cache) -> None:
    def stop(progress: Progress) -> None:
        if progress.message == "opening the model":
            raise InterruptedError(progress.stage)

    with pytest.raises(InterruptedError, match="load"):
        compile(find_source(write_model()), FAST, target, cache, stop)
    assert cache.list() == ()


def test_unknown_backends_are_refused_with_the_known_ones(attempt: Callable[..., Artifact]) -> None:
    with pytest.raises(LoadFailed, match="unknown backend 'onnx': there are eager, torchscript, inductor, tensorrt"):
        attempt(odd(), msgspec.structs.replace(FAST, backends=("onnx",)))
