"""What is installed, read without importing it; when an artifact is built again; what TensorRT cannot do where."""

from __future__ import annotations

import importlib.metadata
import sys

import msgspec
import pytest

from compiler import tools
from compiler.limits import find_refusal, parse_capability
from compiler.manifest import Candidate, Manifest
from compiler.spec import Target
from compiler.tools import find_quantizers, find_tensorrt, is_current

RTX = "rtx 1.4.0.76, torch-tensorrt 2.11.0"
STANDARD = "standard 10.15.1, torch-tensorrt 2.11.0"
HOPPER = (9, 0)


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        try:
            return versions[name.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(name) from None

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_the_flavour_is_read_from_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, torch_tensorrt_rtx="2.11.0", tensorrt_rtx_cu13="1.4.0.76")
    assert find_tensorrt() == RTX
    install(monkeypatch, torch_tensorrt="2.11.0", tensorrt="10.15.1")
    assert find_tensorrt() == STANDARD
    install(monkeypatch, torch_tensorrt="2.11.0")
    assert find_tensorrt() is None, "the bridge without TensorRT itself builds nothing"
    assert "torch_tensorrt" not in sys.modules


def test_the_quantisers_are_named_with_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, nvidia_modelopt="0.47.0", torchao="0.18.0")
    assert find_quantizers() == "modelopt 0.47.0, torchao 0.18.0"
    install(monkeypatch)
    assert find_quantizers() == ""


def manifest_with(*rungs: Candidate) -> Manifest:
    target = Target("cuda:0", "a GPU", (), "2.11", "13.0", "Linux-x86_64", "3.12")
    chosen = Candidate("eager", "fp32", "chosen")
    return Manifest("k", {}, target, "eager", "fp32", (), (), 0, (), (chosen, *rungs), (), {}, "2026-01-01")


def test_a_rung_that_lacked_a_tool_makes_the_artifact_old_when_the_tool_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = manifest_with(Candidate("tensorrt", "fp16", "skipped", variant="static"))
    install(monkeypatch)
    assert is_current(without)
    install(monkeypatch, torch_tensorrt="2.11.0", tensorrt="10.15.1")
    assert not is_current(without)
    lost = msgspec.structs.replace(without.ladder[1], outcome="failed")
    assert is_current(manifest_with(lost)), "what failed would fail again"


def test_a_quantised_rung_without_its_library_is_another_artifact_not_an_old_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tools, "find_cxx", lambda: "/usr/bin/g++")
    assert is_current(manifest_with(Candidate("inductor", "int8", "skipped", variant="pt2e")))
    assert not is_current(manifest_with(Candidate("inductor", "fp32", "skipped")))


@pytest.mark.parametrize(
    ("precision", "tensorrt", "capability", "telling"),
    [
        ("fp8", STANDARD, (8, 6), "8.9 or newer"),
        ("fp8", RTX, HOPPER, ""),
        ("fp8", STANDARD, (0, 0), ""),
        ("int8", RTX, HOPPER, "from Torch-TensorRT 2.12 on"),
        ("int8", "rtx 1.4.0.76, torch-tensorrt 2.12.1", HOPPER, ""),
        ("int8", STANDARD, HOPPER, ""),
        ("fp32", RTX, HOPPER, "computes float32 as TF32"),
        ("fp32", "rtx 1.5.0.114, torch-tensorrt 2.13.0", HOPPER, ""),
        ("fp32", STANDARD, HOPPER, ""),
        ("tf32", RTX, HOPPER, ""),
        ("fp16", "", HOPPER, ""),
    ],
)
def test_what_cannot_be_built_is_known_before_it_is_tried(
    precision: str, tensorrt: str, capability: tuple[int, int], telling: str
) -> None:
    refusal = find_refusal(precision, tensorrt, capability)
    assert telling in refusal
    assert bool(refusal) == bool(telling)


def test_the_capability_is_read_from_the_target() -> None:
    assert parse_capability(("sm_90", "132 SMs")) == (9, 0)
    assert parse_capability(("sm_120",)) == (12, 0)
    assert parse_capability(("avx2",)) == (0, 0)
