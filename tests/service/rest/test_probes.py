"""Probes are answered without FastAPI, as its routes would answer them; the rest is made when it is first asked for."""

import asyncio
from typing import Any

import httpx
import pytest

from service.control import Control
from service.rest.pages import create_pages
from tests.service.rest.asking import Client

PROBES = (
    *("/v2/health/live", "/v2/health/ready", "/v2/models/double/ready", "/v2/models/double/versions/2/ready"),
    *("/v2/models/slow_start/ready", "/v2/models/nobody/ready", "/v2/models/double/versions/9/ready"),
)


async def get(app: Any, path: str) -> tuple[int, dict[str, str], bytes]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        answer = await http.get(path)
        return answer.status_code, dict(answer.headers), answer.content


@pytest.mark.parametrize("path", PROBES)
def test_a_probe_gets_what_its_route_would_answer(path: str) -> None:
    client = Client()
    opened: list[bool] = []
    client.app.on_opened = lambda: opened.append(True)
    found = asyncio.run(get(client.app, path))
    assert found == asyncio.run(get(create_pages(Control(client.plane)), path))
    assert not opened


def test_the_pages_are_made_once_and_also_for_those_who_wait_when_the_first_client_leaves() -> None:
    client = Client()
    opened: list[bool] = []
    client.app.on_opened = lambda: opened.append(True)

    async def ask() -> list[int]:
        leaving = asyncio.create_task(client.app._opened())
        staying = [asyncio.create_task(get(client.app, path)) for path in ("/v2", "/v2/models")]
        await asyncio.sleep(0)  # all have begun
        leaving.cancel()
        return [status for status, _, _ in await asyncio.gather(*staying)]

    assert asyncio.run(ask()) == [200, 200]
    assert opened == [True]
