"""What the pages say was measured is what lies in benchmarks/results."""

from __future__ import annotations

from benchmarks.sizing import PAGE, SHOWN, current


def test_the_sizing_table_is_of_the_last_results() -> None:
    text = PAGE.read_text()
    assert text.count("requests/s over") >= len(SHOWN)
    assert text == current(text), "run `python -m benchmarks.sizing`"
