"""How busy the server is, in a header of the answer, for whoever asks."""

from __future__ import annotations

import json
import re

from tests.service.rest.asking import Client

PATH, BODY = "/v1/models/double/infer", {"inputs": {"x": [[1, 2, 3]]}}
HEADER = "endpoint-load-metrics"


def test_as_json() -> None:
    answer = Client().post(PATH, BODY, headers={f"{HEADER}-format": "json"})
    kind, _, report = answer.headers[HEADER].partition(" ")
    figures = json.loads(report)
    assert (kind, sorted(figures)) == ("JSON", ["application_utilization", "cpu_utilization", "named_metrics"])
    assert figures["named_metrics"] == {"in_flight": 0}, "this request is answered already"


def test_as_text() -> None:
    report = Client().post(PATH, BODY, headers={f"{HEADER}-format": "TEXT"}).headers[HEADER]
    assert re.fullmatch(
        r"TEXT cpu_utilization=[\d.]+, application_utilization=0.0, named_metrics.in_flight=0", report
    ), report


def test_nobody_is_told_who_does_not_ask_or_asks_for_something_else() -> None:
    assert HEADER not in Client().post(PATH, BODY).headers
    answer = Client().post(PATH, BODY, headers={f"{HEADER}-format": "xml"})
    assert (answer.status_code, HEADER in answer.headers) == (200, False)
