from __future__ import annotations

import pytest

from compiler.errors import LoadFailed
from compiler.target import detect_devices, detect_target, parse_cpuinfo, parse_version


def test_the_version_of_torch_is_read_as_text() -> None:
    text = "import os\n__version__ = '2.11.0+cu130'\ncuda: str | None = '13.0'\nhip = None\ndebug = False\n"
    assert parse_version(text) == {"__version__": "2.11.0+cu130", "cuda": "13.0", "hip": None}


def test_only_flags_that_change_code_count() -> None:
    name, flags = parse_cpuinfo("processor : 0\nmodel name : Xeon\nflags : fpu avx2 vme avx512f\n\nprocessor : 1\n")
    assert (name, flags) == ("Xeon", ("avx2", "avx512f"))


def test_this_machine_has_a_target_for_its_device() -> None:
    import torch

    assert detect_target("cpu").torch.startswith(torch.__version__)
    assert detect_devices()[0] == ("cuda:0" if torch.cuda.is_available() else "cpu")


def test_no_visible_gpu_is_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert detect_devices() == ("cpu",)


def test_a_device_that_is_not_there_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(LoadFailed, match="no device 'cuda:7' here: the devices are cpu"):
        detect_target("cuda:7")
    with pytest.raises(LoadFailed, match="unknown device 'tpu'"):
        detect_target("tpu")
