from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from compiler.errors import LoadFailed
from compiler.key import changed_parts, digest, key_parts
from compiler.source import find_source
from compiler.spec import Options, Target


def test_equal_parts_give_equal_keys_in_any_order() -> None:
    assert digest({"a": "1", "b": "2"}) == digest({"b": "2", "a": "1"})


def test_moving_a_letter_over_a_border_changes_the_key() -> None:
    assert digest({"ab": "c"}) != digest({"a": "bc"})
    assert digest({"a": "b", "c": ""}) != digest({"a": "", "c": "b"})


def test_the_change_of_a_weight_file_is_named(write_model: Callable[..., Path], target: Target) -> None:
    folder = write_model()
    (folder / "model.safetensors").write_bytes(b"old")
    before = key_parts(find_source(folder), Options(), target)
    (folder / "model.safetensors").write_bytes(b"new")
    after = key_parts(find_source(folder), Options(), target)
    assert list(changed_parts(before, after)) == ["source.model.safetensors"]
    assert digest(before) != digest(after)


def test_options_and_target_are_named_parts(write_model: Callable[..., Path], target: Target) -> None:
    source = find_source(write_model())
    before = key_parts(source, Options(), target)
    after = key_parts(source, Options(objective="latency"), msgspec.structs.replace(target, torch="9.9"))
    assert changed_parts(before, after) == {
        "options.objective": ('"throughput"', '"latency"'),
        "target.torch": (f'"{target.torch}"', '"9.9"'),
    }


def test_equal_gpus_share_an_artifact(write_model: Callable[..., Path], target: Target) -> None:
    source = find_source(write_model())
    first, second = (msgspec.structs.replace(target, device=device) for device in ("cuda:0", "cuda:1"))
    assert digest(key_parts(source, Options(), first)) == digest(key_parts(source, Options(), second))


def test_a_missing_distribution_is_named_with_the_command_that_installs_it(
    write_model: Callable[..., Path], target: Target
) -> None:
    source = find_source(write_model(), requires=("no-such-distribution",))
    with pytest.raises(LoadFailed, match="pip install no-such-distribution"):
        key_parts(source, Options(), target)


def test_a_folder_without_a_model_names_the_expected_files(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"model\.pt2 .*model\.pt .*model\.py"):
        find_source(tmp_path)


def test_a_folder_with_two_models_names_both(write_model: Callable[..., Path]) -> None:
    folder = write_model()
    (folder / "model.pt2").write_bytes(b"")
    with pytest.raises(LoadFailed, match=r"model\.pt2 and model\.py"):
        find_source(folder)
