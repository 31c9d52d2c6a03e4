import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
from starlette.applications import Starlette

from wearable_pipeline.sandbox.server import create_app

NOW = datetime(2026, 11, 20, 7, 0, tzinfo=UTC)


class _InProcess(httpx.BaseTransport):
    """Answers a synchronous client from an ASGI application, without a socket."""

    def __init__(self, app: Starlette) -> None:
        self._transport = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return asyncio.run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._transport.handle_async_request(request)
        body = await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=body)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    transport = _InProcess(create_app(now=NOW))
    with httpx.Client(transport=transport, base_url="http://sandbox.invalid") as client:
        yield client
