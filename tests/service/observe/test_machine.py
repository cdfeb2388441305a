"""What Linux and NVIDIA's driver tell: shares between two looks, processes that come and go, cards that tell little."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from service.observe import metrics
from service.observe.gpu import Gpus
from service.observe.machine import Machine
from service.observe.merge import Merged, Reader
from service.observe.processes import PAGE_BYTES, TICK_NS, ProcessWatch
from service.observe.store import Store

MIB = 1024 * 1024


def told(merged: Merged) -> dict[str, int]:
    return {name: int(words[0]) for name, series in merged.items() for words in series.values()}


def test_the_machines_cpu_is_what_was_used_between_two_scrapes(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n")
    machine, merged = Machine(tmp_path), Merged()
    (tmp_path / "stat").write_text("cpu 100 0 0 100 0 0 0 0 50 0\ncpu0 1\n")
    machine.add_to(merged)
    (tmp_path / "stat").write_text("cpu 130 0 0 160 10 0 0 0 90 0\ncpu0 1\n")
    machine.add_to(merged)
    found = told(merged)
    assert found[metrics.HOST_CPU.name] == 300_000, "30 of 100 ticks, in millionths"
    assert (found[metrics.HOST_TOTAL.name], found[metrics.HOST_USED.name]) == (2 * MIB, MIB)


def test_where_there_is_no_proc_nothing_is_told(tmp_path: Path) -> None:
    merged: Merged = {}
    Machine(tmp_path).add_to(merged)
    assert merged == {}


class Proc:
    """A made-up /proc."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set(self, pid: int, ticks: int, pages: int, children: str = "", command: str = "python") -> None:
        home = self.folder / str(pid)
        (home / "task" / str(pid)).mkdir(parents=True, exist_ok=True)
        (home / "task" / str(pid) / "children").write_text(children)
        words = ["S", *["0"] * 10, str(ticks), "0", *["0"] * 8, str(pages), "0"]
        (home / "stat").write_text(f"{pid} (a (b) c) {' '.join(words)}")
        (home / "cmdline").write_bytes(command.replace(" ", "\0").encode())


def test_processes_are_told_apart_and_their_time_never_goes_back(tmp_path: Path) -> None:
    proc, folder = Proc(tmp_path / "proc"), tmp_path / "counts"
    folder.mkdir()
    watch = ProcessWatch(Store(folder), root=1, proc=proc.folder)
    proc.set(1, 10, 1, "2 3 5")
    proc.set(2, 5, 2)
    proc.set(3, 7, 3, "4", "python -m service.engine.worker")
    proc.set(4, 1, 4, "", "python -m service.engine.steps.worker")
    proc.set(5, 9, 5, "", "python -m compiler.builder 10")
    watch.look({2: "frontend 0", 3: "engine cpu"})
    proc.set(1, 11, 1, "6 3")  # the frontend has a successor, the builder is done
    proc.set(6, 2, 6)
    watch.look({6: "frontend 0", 3: "engine cpu"})
    merged = Reader(folder).read()
    spent = {labels[0]: int(words[0]) for labels, words in merged[metrics.CPU_SECONDS.name].items()}
    assert spent == {
        name: ticks * TICK_NS
        for name, ticks in (("parent", 11), ("frontend 0", 7), ("engine cpu", 7), ("steps", 1), ("builder", 9))
    }
    resident = {labels[0]: int(words[0]) for labels, words in merged[metrics.RESIDENT.name].items()}
    assert resident["frontend 0"] == 6 * PAGE_BYTES
    assert resident["builder"] == 0
    alive = {labels[0]: int(words[0]) for labels, words in merged[metrics.PROCESSES.name].items()}
    assert alive == {"parent": 1, "frontend 0": 1, "engine cpu": 1, "steps": 1, "builder": 0}
    watch.died("engine cpu")
    restarts = Reader(folder).read()[metrics.RESTARTS.name]
    assert (int(restarts["engine",][0]), int(restarts["frontend",][0])) == (1, 0), "none is told too"


class NvmlError(Exception):
    """What the driver raises."""


def refuse(*_: Any) -> Any:
    raise NvmlError


def nvml(**more: Any) -> Any:
    functions = {
        "NVMLError": NvmlError,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: "GPU-1",
        "nvmlDeviceGetName": lambda handle: b"H100",
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=42),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=10, total=80),
        "nvmlDeviceGetPowerUsage": lambda handle: 250_500,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 700_000,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 12_000,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 55,
    }
    return SimpleNamespace(**{**functions, **more})


def test_a_gpu_tells_all_it_can() -> None:
    merged: Merged = {}
    Gpus(nvml).add_to(merged)
    assert list(merged[metrics.GPU_POWER.name]) == [("0", "GPU-1", "H100")]
    assert told(merged) == {
        metrics.GPU_UTILISATION.name: 42,
        metrics.GPU_USED.name: 10,
        metrics.GPU_TOTAL.name: 80,
        metrics.GPU_POWER.name: 250_500,
        metrics.GPU_LIMIT.name: 700_000,
        metrics.GPU_ENERGY.name: 12_000,
        metrics.GPU_TEMPERATURE.name: 55,
    }


def test_what_a_card_does_not_tell_is_left_out() -> None:
    merged: Merged = {}
    Gpus(lambda: nvml(nvmlDeviceGetPowerUsage=refuse, nvmlDeviceGetMemoryInfo=refuse)).add_to(merged)
    assert metrics.GPU_POWER.name not in merged
    assert metrics.GPU_USED.name not in merged
    assert metrics.GPU_TEMPERATURE.name in merged


def test_without_module_or_driver_there_are_no_gpus() -> None:
    def missing() -> Any:
        raise ImportError("No module named 'pynvml'")

    merged: Merged = {}
    for without in (missing, lambda: nvml(nvmlInit=refuse), lambda: nvml(nvmlDeviceGetCount=refuse)):
        Gpus(without).add_to(merged)
    assert merged == {}
