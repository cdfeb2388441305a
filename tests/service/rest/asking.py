"""Asks the HTTP application directly, one request at a time, in one event loop."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson

from service.control import Control
from service.limits import Limits
from service.plane import Plane
from service.repository.catalog import Entry
from service.rest.app import create_app
from service.security import make_guard
from service.settings import Settings
from tests.fakes import FakeCounter, FakeEngines, catalog


class Client:
    """`client.post(path, body)`; `engines` and `counter` remember."""

    def __init__(self, *more: Entry, max_body_bytes: int = 10_000, **settings: Any) -> None:
        self.engines = FakeEngines()
        self.counter = FakeCounter()
        self.plane = Plane(self.engines, self.counter)
        self.plane.catalog = catalog(*more)
        for entry in more:
            self.engines.know(entry)
        settings = {"max_body_bytes": max_body_bytes, **settings}
        made = Settings(**settings)
        self.guard = make_guard(made.token_file, made.restricted_api)
        self.app = create_app(self.plane, Control(self.plane), made, self.guard)

    @property
    def limits(self) -> Limits:
        return self.app.lane.limits

    def ask(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return await http.request(method, path, **arguments)

        return asyncio.run(send())

    def post(self, path: str, body: Any, **arguments: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return self.ask("POST", path, content=content, **arguments)
