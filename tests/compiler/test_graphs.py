"""How a replay is compared with the plain call, and which line of an error says what happened; graphs need a GPU."""

from __future__ import annotations

import torch

from compiler.graphs import find_difference, telling_line

ONES = torch.ones(4, 4)


def test_last_digits_may_differ_and_nothing_else() -> None:
    assert find_difference(ONES, ONES) == ""
    assert find_difference(ONES * (1 + 1e-5), ONES) == ""
    assert "by 0.01" in find_difference(ONES * 1.01, ONES)
    assert "instead of" in find_difference(ONES[:2], ONES)
    assert "instead of" in find_difference(ONES.half(), ONES)
    assert find_difference(ONES.long() + 1, ONES.long()) == "other values"


def test_what_is_no_number_must_be_none_in_both() -> None:
    broken = ONES.clone()
    broken[1, 2] = float("nan")
    assert find_difference(broken, ONES) == "other elements are not finite"
    assert find_difference(broken, broken.clone()) == ""


def test_the_line_that_names_the_error_stands_after_the_traceback_of_torchscript() -> None:
    error = RuntimeError(
        "The operation failed.\nTraceback:\n  line 3\nRuntimeError: called a synchronizing operation\n"
    )
    assert telling_line(error) == "RuntimeError: called a synchronizing operation"
    assert telling_line(ValueError("only this")) == "ValueError: only this"
