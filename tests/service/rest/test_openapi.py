"""Our own OpenAPI document, taken at its word by schemathesis: whatever it allows is answered, and never our fault."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.service.rest.asking import Client

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis: it reads the OpenAPI document")

# By the state of a model, or a feature that is not there; a fault of ours is 500.
NOT_OURS = (501, 503)


@pytest.mark.filterwarnings("ignore")  # of schemathesis and what it brings
def test_whatever_the_document_allows_is_answered_or_refused() -> None:
    client = Client()
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {"/v1/models/double/versions/1:predict", "/predictions/mean_color/1"} <= {each.path for each in operations}
    for operation in operations:

        @settings(max_examples=10, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            answer = case.call()
            assert answer.status_code < 500 or answer.status_code in NOT_OURS, (case.path, answer.content)
            if answer.status_code >= 400 and answer.status_code != 503:
                assert answer.headers["content-type"] == ["application/json"]
                assert answer.json()["error"]

        ask()
