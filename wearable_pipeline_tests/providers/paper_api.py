"""An API whose answers are written down in the test, and what a provider fetches from it."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from wearable_pipeline.providers._contract import Connection, Fetch, Page, Window
from wearable_pipeline.raw.client import HttpClient

FORMS = ("answer", "list", "alone")
Answering = Callable[[httpx.Request], httpx.Response]


class AtBase:
    """A client for paths; `absent` are statuses the error table lets through."""

    def __init__(self, client: HttpClient, *absent: int) -> None:
        self.client = client
        self.absent = absent

    async def request(self, method: str, url: str, **more: Any) -> Any:
        accept = (*more.pop("accept", (200,)), *self.absent)
        return await self.client.request(method, f"https://api.example{url}", accept=accept, **more)


class Answers:
    """Answers by the last word of the path, those in a list one by one; remembers what was asked for."""

    def __init__(self, empty: object, of: Mapping[str, object]) -> None:
        self.empty = empty
        self.of = of
        self.asked: list[httpx.URL] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url)
        planned = self.of.get(request.url.path.rpartition("/")[2], self.empty)
        if isinstance(planned, list):
            planned = planned.pop(0)
        if isinstance(planned, httpx.Response):
            return planned
        return httpx.Response(200, json=planned)

    def of_path(self, name: str) -> list[dict[str, str]]:
        """What was asked of every address that ends with `name`."""
        return [dict(url.params) for url in self.asked if url.path.endswith(name)]


def fetched_pages(
    fetch: Fetch,
    client_for: Callable[[Answering], HttpClient],
    answer: Answering,
    window: Window,
    state: dict[str, object] | None = None,
    absent: tuple[int, ...] = (),
) -> list[Page]:
    """All pages of one fetch for somebody whose zone nobody knows."""
    connection = Connection("u", {}, {}, {} if state is None else state, None, lambda: None)

    async def run() -> list[Page]:
        async with client_for(answer) as client:
            return [page async for page in fetch(AtBase(client, *absent), connection, window)]

    return asyncio.run(run())


def in_form(form: str, key: str, item: object) -> object:
    """A body that holds one item: as the API answers, as a bare list, or the item alone."""
    forms: dict[str, object] = {
        "answer": {key: [item], "next_token": None},
        "list": [item],
        "alone": item,
    }
    return forms[form]
