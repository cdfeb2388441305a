"""What the terminal shows: figures, the ladder, the hybrid map, and what is new while a model is compiled."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from compiler import Progress, RungState
from compiler.manifest import Manifest, PaddedTime
from service.report.facts import describe_accuracy, describe_gain
from service.report.figures import bytes_text, count_text, milliseconds_text, percent_text, printable, seconds_text
from service.report.live import Display, find_news
from service.report.tables import print_manifest
from tests.service.report.samples import cpu_manifest, gpu_manifest


def shown(manifest: Manifest, width: int = 200) -> str:
    stream = io.StringIO()
    print_manifest(Console(file=stream, width=width), "digits 1", manifest)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.0123", milliseconds_text(0.0123)),
        ("1.23", milliseconds_text(1.2345)),
        ("123", milliseconds_text(123.4)),
        ("0", milliseconds_text(0)),
        ("12 B", bytes_text(12)),
        ("1.5 MB", bytes_text(1.5e6)),
        ("97.25 %", percent_text(0.9725)),
        ("100 %", percent_text(1)),
        ("9.9 s", seconds_text(9.94)),
        ("3 min 5 s", seconds_text(185)),
        ("12,300", count_text(12_345)),
        ("a�[31mb", printable("a\x1b[31mb")),
    ],
)
def test_figures(text: str, value: str) -> None:
    assert value == text


def test_the_ladder_has_every_rung_with_its_figures_and_reasons() -> None:
    manifest = cpu_manifest()
    text = shown(manifest)
    assert "digits 1  torchscript int8 onednn  2.7x to 3.0x as fast as eager  top-1 98.61 % before" in text
    row = next(line.split() for line in text.splitlines() if "chosen" in line)
    assert row == (
        "torchscript int8 onednn chosen 1.9e-02 98.33 % 0.150 0.310 1.66 1.0 MB 120.0 kB 6.2 s".split()  # noqa: SIM905
    )
    assert all(rung.reason in text for rung in manifest.ladder)


def test_without_samples_and_memory_their_columns_are_left_out() -> None:
    ladder = tuple(msgspec.structs.replace(rung, memory=0) for rung in cpu_manifest().ladder)
    text = shown(msgspec.structs.replace(cpu_manifest(), ladder=ladder, reference_accuracy=None))
    assert "top-1" not in text.splitlines()[2]
    assert "memory" not in text.splitlines()[2]


def test_what_is_padded_has_its_times_at_each_size() -> None:
    padded = tuple(PaddedTime(rows, (4, size), rows * size / 8) for rows in (1, 64) for size in (128, 16))
    ladder = tuple(
        msgspec.structs.replace(rung, padded=padded) if rung.outcome == "chosen" else rung
        for rung in cpu_manifest().ladder
    )
    lines = shown(msgspec.structs.replace(cpu_manifest(), ladder=ladder)).splitlines()
    rows = [line.split() for line in lines if line.startswith("4 x")]
    assert rows == [["4", "x", "16", "2.00", "128"], ["4", "x", "128", "16.0", "1024"]]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_narrow_terminal_gets_fewer_batch_sizes_and_whole_figures(width: int) -> None:
    times = {1: 0.151, 2: 0.22, 4: 0.25, 8: 0.31, 16: 0.5, 32: 0.9, 64: 1.66}
    ladder = tuple(msgspec.structs.replace(rung, milliseconds=times) for rung in cpu_manifest().ladder)
    lines = shown(msgspec.structs.replace(cpu_manifest(), ladder=ladder), width).splitlines()
    row = next(line for line in lines if "chosen" in line).rstrip()
    assert len(row) <= width
    assert ("0.151" in row, "1.66" in row, "0.220" in row) == (True, True, width > 100)
    assert "…" not in row


def test_the_hybrid_map_is_listed_in_order() -> None:
    text = shown(gpu_manifest())
    assert "3 TensorRT engines, with 98.04 % of the operators and 99.93 % of the parameters" in text
    names = ["_acc_0", "_gpu_1", "_acc_2", "_gpu_3", "_acc_4"]
    assert sorted(names, key=text.index) == names
    assert "aten.sort.default stayed in PyTorch: its converter refuses a dynamic shape" in text
    assert "not known to this version: use_fp32_acc" in text


def test_what_is_said_where_nothing_won() -> None:
    eager = msgspec.structs.replace(cpu_manifest().ladder[0], outcome="chosen")
    manifest = msgspec.structs.replace(cpu_manifest(), ladder=(eager,), reference_accuracy=None)
    assert "nothing that was tried is faster" in describe_gain(manifest)
    assert "nothing that was asked for passed" in describe_gain(msgspec.structs.replace(manifest, is_fallback=True))
    assert describe_accuracy(manifest) == ""


RUNGS = (RungState("eager fp32", "built", 0.1), RungState("torchscript fp32", "building", 1.0))
BUILDING = Progress("build", "torchscript fp32", 3.2, "tracing", RUNGS)


def test_only_what_is_new_is_told() -> None:
    assert find_news(None, BUILDING) == ["eager fp32: built in 0.1 s", "building torchscript fp32 (3.2 s)"]
    later = msgspec.structs.replace(BUILDING, elapsed_s=9.0)
    assert find_news(BUILDING, later) == []
    lost = RungState("torchscript fp32", "failed", 1.0, "it\ncrashed")
    later = msgspec.structs.replace(later, rungs=(BUILDING.rungs[0], lost))
    assert find_news(BUILDING, later) == ["torchscript fp32: failed: it crashed"]


def test_waiting_for_another_process_is_told() -> None:
    assert find_news(None, Progress("wait", None, 2.0, "another process compiles this model")) == [
        "another process compiles this model (2.0 s)"
    ]


def test_a_pipe_gets_lines() -> None:
    stream = io.StringIO()
    with Display(Console(file=stream, width=100), "[b]digits[/b] 1") as display:
        display.hear(BUILDING)
        display.hear(BUILDING)
    assert stream.getvalue().splitlines() == [
        "[b]digits[/b] 1: eager fp32: built in 0.1 s",
        "[b]digits[/b] 1: building torchscript fp32 (3.2 s)",
    ]


def test_a_terminal_gets_a_line_for_each_rung_which_does_not_stay() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    with Display(console, "digits 1") as display:
        display.hear(BUILDING)
        console.print("between")
    text = stream.getvalue()
    for part in ("digits 1", "build torchscript fp32: tracing", "3.2 s", "▸ torchscript fp32", "building", "built"):
        assert part in text
    assert text.endswith("\x1b[2K")
