"""The door's other ways: an artifact within seconds, a look-up that never builds, a stand-in, a strict ladder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from compiler import Cache, Options, Progress, Target, backends, compile, fallback, find, find_source
from compiler.errors import LoadFailed, NoCandidate
from compiler.spec import TensorSpec

OPTIONS = Options(inputs=(TensorSpec("x", "FP32", (-1, 4)),), max_batch_size=4, backends=("eager", "torchscript"))
MIXES_ROWS = """
import torch

class Mixes(torch.nn.Module):
    def forward(self, x):
        return x - x.mean(0)

def create_model():
    return Mixes()
"""
UNTRACEABLE = """
import torch

class Odd(torch.nn.Module):
    def forward(self, x):
        if torch.jit.is_tracing():
            raise RuntimeError("not to be traced")
        return x * 2

def create_model():
    return Odd()
"""


def test_a_fallback_serves_what_the_model_computes(
    write_model: Callable[..., Path], target: Target, cache: Cache
) -> None:
    source = find_source(write_model())
    artifact = fallback(source, OPTIONS, target, cache)
    manifest = artifact.manifest
    assert (manifest.is_fallback, manifest.backend, manifest.buckets) == (True, "eager", (1, 2, 4))
    assert [rung.outcome for rung in manifest.ladder] == ["chosen"]
    rows = torch.rand(3, 4)
    namespace: dict[str, object] = {}
    exec((source.folder / "model.py").read_text(), namespace)
    wanted = namespace["create_model"]()(rows)  # type: ignore[operator]
    torch.testing.assert_close(backends.load(artifact.folder, manifest, "cpu")((rows,))[0], wanted.detach())
    assert fallback(source, OPTIONS, target, cache).cached


def test_what_warms_a_model_up_goes_with_it(write_model: Callable[..., Path], target: Target, cache: Cache) -> None:
    before = fallback(find_source(write_model()), OPTIONS, target, cache)
    folder = write_model()
    save_file({"x": torch.ones(3, 4)}, folder / "warm_up.safetensors")
    after = fallback(find_source(folder), OPTIONS, target, cache)
    assert after.manifest.key != before.manifest.key
    assert torch.equal(load_file(after.folder / "warm_up.safetensors")["x"], torch.ones(3, 4))


def test_a_fallback_is_never_taken_for_the_winner(
    write_model: Callable[..., Path], target: Target, cache: Cache
) -> None:
    source = find_source(write_model())
    eager = msgspec.structs.replace(OPTIONS, backends=("eager",), precisions=("fp32",))
    fallback(source, eager, target, cache)
    assert find(source, eager, target, cache) is None
    compiled = compile(source, eager, target, cache)
    assert not compiled.cached
    assert not compiled.manifest.is_fallback
    found = find(source, eager, target, cache)
    assert found is not None
    assert (found.cached, found.manifest) == (True, compiled.manifest)


def test_a_model_that_cannot_be_served_has_no_fallback_either(
    write_model: Callable[..., Path], target: Target, cache: Cache
) -> None:
    with pytest.raises(LoadFailed, match="mixes the rows of a batch"):
        fallback(find_source(write_model(MIXES_ROWS)), OPTIONS, target, cache)


def test_eager_stands_in_for_what_was_asked_for_and_strict_refuses_it(
    write_model: Callable[..., Path], target: Target, cache: Cache
) -> None:
    source = find_source(write_model(UNTRACEABLE))
    asked = msgspec.structs.replace(OPTIONS, backends=("inductor",), precisions=("fp8",))
    manifest = compile(source, asked, target, cache).manifest
    assert {rung.rung.name: rung.outcome for rung in manifest.ladder} == {
        "eager fp32": "chosen",
        "inductor fp8": "unsupported",
    }
    assert manifest.is_fallback
    with pytest.raises(NoCandidate, match="inductor fp8: FP8 needs TensorRT engines on a GPU"):
        compile(source, msgspec.structs.replace(asked, strict=True), target, cache)


def test_progress_shows_the_whole_ladder(write_model: Callable[..., Path], target: Target, cache: Cache) -> None:
    heard: list[Progress] = []
    compile(find_source(write_model()), OPTIONS, target, cache, heard.append)
    assert {state.name: state.state for state in heard[-1].rungs}.keys() == {"eager fp32", "torchscript fp32"}
    assert {state.state for state in heard[-1].rungs} == {"chosen", "slower"}
    assert any(state.state == "building" for progress in heard for state in progress.rungs)
