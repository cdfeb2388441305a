"""What the pages say was measured is what lies in benchmarks/results."""

from __future__ import annotations

import json

from benchmarks.sizing import PAGE, RESULTS, ROOT, SHOWN, current


def test_the_sizing_table_is_of_the_last_results() -> None:
    text = PAGE.read_text()
    assert text.count("requests/s over") >= len(SHOWN)
    assert text == current(text), "run `python -m benchmarks.sizing`"


def test_the_pages_tell_the_memory_that_was_measured_last() -> None:
    measured = json.loads((RESULTS / "growth.json").read_text())
    pages = [(ROOT / "docs" / name).read_text() for name in ("benchmarking.md", "conformance.md")]
    for process, held in measured["processes"].items():
        rss, growth = held["rss_mib"], f"{held['rss_mib_per_million']:.2f}"
        assert f"| {process} | {rss} | {held['pss_mib']} | {growth} |" in pages[0]
        assert f"| {process} | {rss} | {growth} |" in pages[1]
    for stage, (rss, pss) in measured["frontend"].items():
        assert f"| {stage} | {rss} | {pss} |" in pages[0]
