"""The page of HTML: well-formed, complete, fetching nothing, unbroken by hostile names."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from compiler.manifest import Candidate, Manifest, OutputError
from service.report.page import Compiled, render_page, write_page
from tests.service.report.samples import HYBRID, cpu_manifest, gpu_manifest

HOSTILE = """</style><script src="https://evil.example/x.js"></script><img onerror='x' src="//evil"> & "'\x1b[31m\x00"""


def parse(*manifests: Manifest, title: str = "digits 1") -> ElementTree.Element:
    """The page as a tree; a fault in its form raises."""
    page = render_page([Compiled(title, manifest, False, 29.3) for manifest in manifests])
    assert page.startswith("<!DOCTYPE html>\n")
    return ElementTree.fromstring(page.partition("\n")[2])


def text_of(tree: ElementTree.Element) -> str:
    return " ".join("".join(tree.find("body").itertext()).split())  # type: ignore[union-attr]


def rungs_of(tree: ElementTree.Element) -> list[tuple[str, str]]:
    table = next(each for each in tree.iter("table") if each.get("class") == "rungs")
    rows = [row for row in table.iter("tr") if "reason" not in (row.get("class") or "")][1:]
    return [("".join(row[0].itertext()), "".join(row[1].itertext())) for row in rows]


@pytest.mark.parametrize("manifest", [cpu_manifest(), gpu_manifest()], ids=["cpu", "gpu"])
def test_every_rung_stands_on_the_page_with_outcome_and_reason(manifest: Manifest) -> None:
    tree = parse(manifest)
    assert rungs_of(tree) == [(rung.rung.name, rung.outcome) for rung in manifest.ladder]
    text = text_of(tree)
    assert all(rung.reason in text for rung in manifest.ladder)


def test_the_headline_says_what_is_served_how_much_faster_and_how_accurate() -> None:
    text = text_of(parse(cpu_manifest()))
    assert "served by torchscript int8 onednn: 2.7x to 3.0x as fast as eager" in text
    assert "compiled in 29 s" in text
    assert "98.33 %98.61 % before" in text


def test_bars_are_as_long_as_the_times_of_their_batch() -> None:
    panels = list(parse(cpu_manifest()).iter("figure"))
    assert ["".join(panel[0].itertext()) for panel in panels] == ["batch 1ms", "batch 8ms", "batch 64ms"]
    widths = [track.get("style") for track in panels[0].iter("i")]
    assert widths == ["width:100.0%", "width:46.3%", "width:36.6%"]
    assert [bar.get("class") for bar in panels[0].findall("div")] == ["bar slower", "bar slower", "bar chosen"]


def test_errors_stand_beside_what_they_may_be() -> None:
    tree = parse(cpu_manifest())
    rows = [each for each in tree.iter("div") if (each.get("class") or "").startswith("error ")]
    assert [row.get("class") for row in rows] == ["error within"] * 3 + ["error beyond"]
    assert "3.1e-08 of 1.0e-04" in "".join(rows[1].itertext())
    own = {**cpu_manifest().key_parts, "options.tolerances": '{"int8":{"relative_l2":0.3,"max_abs":0.9}}'}
    text = text_of(parse(msgspec.structs.replace(cpu_manifest(), key_parts=own)))
    assert "2.1e-01 of 3.0e-01" in text


def test_the_hybrid_map_has_its_segments_in_order_what_crosses_and_why() -> None:
    tree = parse(gpu_manifest())
    drawing = next(each for each in tree.iter("div") if each.get("class") == "map")
    kinds = [each.get("class") for each in drawing if each.tag == "div"]
    assert kinds == ["block tensorrt", "block torch", "block tensorrt", "block torch", "block tensorrt"]
    borders = ["".join(each.itertext()) for each in drawing if each.tag == "span"]
    assert borders == ["588.0 kB", "392.0 kB", "392.0 kB", "5.0 kB", "3.9 kB", "3.9 kB"]
    text = text_of(tree)
    assert "3 TensorRT engines and 2 parts that stayed in PyTorch" in text
    assert "operators in engines98.04 %" in text
    assert all(each.operator in text and each.reason in text for each in HYBRID.remainders)
    assert all(name in text for segment in HYBRID.segments for name in segment.operators)


def test_what_is_looked_up_is_there_too() -> None:
    text = text_of(parse(cpu_manifest()))
    for part in (
        "1 of 2 layers are 2:4 sparse",
        "16x1x3x3",
        "build 14 s",
        "AMD EPYC 7763",
        "source.model.py",
        "c3c3c3",
    ):
        assert part in text


def test_nothing_is_fetched_and_nothing_runs() -> None:
    page = render_page([Compiled("digits 1", cpu_manifest(), False, 1.0), Compiled("b 1", gpu_manifest(), True, 1.0)])
    tree = ElementTree.fromstring(page.partition("\n")[2])
    assert {each.tag for each in tree.iter()}.isdisjoint({"script", "link", "img", "iframe", "object", "form", "base"})
    named = {name for each in tree.iter() for name in each.attrib}
    assert named.isdisjoint({"src", "srcset", "action", "background"})
    assert not [name for name in named if name.startswith("on")]
    assert {each.get("href", "#")[0] for each in tree.iter("a")} == {"#"}
    style = next(tree.iter("style")).text or ""
    assert not re.search(r"url\(|@import|@font-face", style)


def test_hostile_names_and_reasons_are_only_text() -> None:
    manifest = cpu_manifest()
    harmed = Candidate("torchscript", "fp32", "failed", HOSTILE, variant=HOSTILE, ignored=(HOSTILE,))
    tree = parse(
        msgspec.structs.replace(
            manifest,
            ladder=(
                *manifest.ladder,
                harmed,
                msgspec.structs.replace(harmed, errors=(OutputError(HOSTILE, 1.0, 1.0),)),
            ),
            key_parts={HOSTILE: HOSTILE},
            target=msgspec.structs.replace(manifest.target, name=HOSTILE),
            origin=HOSTILE,
        ),
        title=HOSTILE,
    )
    assert not list(tree.iter("script")) + list(tree.iter("img"))
    shown = text_of(tree)
    assert '<script src="https://evil.example/x.js">' in shown
    assert "\x1b" not in shown


def test_a_model_with_nothing_but_eager_has_a_page() -> None:
    manifest = cpu_manifest()
    bare = Candidate("eager", "fp32", "chosen")
    tree = parse(
        msgspec.structs.replace(manifest, ladder=(bare,), stage_seconds={}, sparsity=(), reference_accuracy=None)
    )
    assert rungs_of(tree) == [("eager fp32", "chosen")]
    assert "the model as it is: nothing that was tried is faster" in text_of(tree)


def test_an_error_that_is_no_number_is_drawn_at_the_end_of_the_scale() -> None:
    lost = Candidate("torchscript", "fp32", "inaccurate", "NaN", (OutputError("y", float("nan"), float("inf")),))
    manifest = cpu_manifest()
    tree = parse(msgspec.structs.replace(manifest, ladder=(*manifest.ladder, lost)))
    last = [each for each in tree.iter("div") if (each.get("class") or "") == "error beyond"][-1]
    assert next(last.iter("i")).get("style") == "width:100.0%"


def test_it_is_written_as_utf_8(tmp_path: Path) -> None:
    write_page([Compiled("größe 1", cpu_manifest(), True, 0.1)], tmp_path / "page.html")
    assert "größe 1" in (tmp_path / "page.html").read_text(encoding="utf-8")
