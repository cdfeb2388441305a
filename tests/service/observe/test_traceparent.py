"""A caller's trace is read from its header; what is not valid is as none at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observe.traceparent import TraceContext, parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("sampled", [True, False])
def test_what_is_written_is_read(sampled: bool) -> None:
    context = TraceContext(int(TRACE, 16), int(SPAN, 16), sampled)
    assert context.traceparent == f"00-{TRACE}-{SPAN}-0{int(sampled)}"
    assert parse_traceparent(context.traceparent) == context
    assert context.trace_text == TRACE


@pytest.mark.parametrize(
    "header",
    [
        *("", "x", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-", f"00-{TRACE[1:]}-{SPAN}-01"),
        *(f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE.upper()}-{SPAN}-01"),
        *(f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-01\nx"),
    ],
)
def test_what_is_not_valid_is_none(header: str) -> None:
    assert parse_traceparent(header) is None


def test_a_version_that_is_yet_to_come_is_read_as_far_as_it_is_known() -> None:
    found = parse_traceparent(f"cc-{TRACE}-{SPAN}-09-what-will-be")
    assert found is not None
    assert found.is_sampled


@pytest.mark.parametrize(("state", "kept"), [("a=1,b=2", "a=1,b=2"), ("a=" + "x" * 600, ""), ("a=\n", ""), ("é=1", "")])
def test_the_state_is_passed_on_where_it_can_be(state: str, kept: str) -> None:
    found = parse_traceparent(f"00-{TRACE}-{SPAN}-01", state)
    assert found is not None
    assert found.state == kept


@given(st.text(max_size=80), st.text(max_size=80))
def test_nothing_a_client_sends_is_an_error(header: str, state: str) -> None:
    parse_traceparent(header, state)
