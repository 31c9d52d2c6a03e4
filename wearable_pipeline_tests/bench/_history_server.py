"""An Oura that holds the same weeks for everybody, in a process of its own: what history is read from.

Documents are those of the sandbox's first person, made once; a token `user-<n>` is somebody's. It counts
the requests on their way at once, and refuses the user it is told to with HTTP 400.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import parse_qs

import msgspec

from wearable_pipeline.sandbox._process import ChildProcess
from wearable_pipeline.sandbox.fleet import serve
from wearable_pipeline.sandbox.oura import COLLECTIONS, PEOPLE, Json, heart_rate
from wearable_pipeline.sandbox.people import DEFAULT_SEED

Message = MutableMapping[str, Any]

# How long the service thinks; without it a fast client would never have many requests on their way.
THINKS = 0.01
HEART_RATES = 1_000
_ROOT = "/v2/usercollection/"


class Stats(msgspec.Struct):
    """What was asked so far: requests, most of them at once, addresses of the first user."""

    requests: int = 0
    most_in_flight: int = 0
    addresses: list[str] = []


class HistoryServer(ChildProcess):
    """The server, stopped with `close`; `failing` is the number of the user who is refused."""

    def __init__(self, now: datetime, failing: int) -> None:
        super().__init__(
            "wearable_pipeline_tests.bench._history_server",
            *("--now", now.isoformat(), "--failing", str(failing)),
            timeout=30,
        )

    def stats(self) -> Stats:
        """What was asked since the last call."""
        answer = self._client.get("/control/stats").raise_for_status()
        return msgspec.json.decode(answer.content, type=Stats)


class _Service:
    def __init__(self, now: datetime, failing: int) -> None:
        self._now = now
        self._failing = f"Bearer user-{failing}".encode()
        self._stats = Stats()
        self._in_flight = 0

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["path"] == "/control/stats":
            told, self._stats = self._stats, Stats()
            await _answer(send, 200, msgspec.json.encode(told))
            return
        stats = self._stats
        stats.requests += 1
        self._in_flight += 1
        stats.most_in_flight = max(stats.most_in_flight, self._in_flight)
        try:
            await asyncio.sleep(THINKS)
            token = next(
                (value for name, value in scope["headers"] if name == b"authorization"), b""
            )
            address = f"{scope['path']}?{scope['query_string'].decode()}"
            if token == b"Bearer user-0":
                stats.addresses.append(address)
            if token == self._failing:
                await _answer(send, 400, b"{}")
            else:
                await _answer(send, 200, _page(address, self._now))
        finally:
            self._in_flight -= 1


async def _answer(send: Callable[[Message], Awaitable[None]], status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@cache
def _page(address: str, now: datetime) -> bytes:
    path, _, query = address.partition("?")
    asked = {name: values[0] for name, values in parse_qs(query).items()}
    collection = path.removeprefix(_ROOT)
    who = PEOPLE["gus"]
    if collection == "personal_info":
        return msgspec.json.encode({"id": who.account_id, "weight": 70.5, "height": 1.75})
    if collection == "heartrate":
        start, end = (
            datetime.fromisoformat(asked[f"{edge}_datetime"]) for edge in ("start", "end")
        )
        found = list(heart_rate(DEFAULT_SEED, who, start, end))
        skip = int(asked.get("next_token", "0"))
        following = str(skip + HEART_RATES) if len(found) > skip + HEART_RATES else None
        return _encode(found[skip : skip + HEART_RATES], following)
    make = COLLECTIONS[collection]
    first, last = (date.fromisoformat(asked[f"{edge}_date"]) for edge in ("start", "end"))
    days = (first + timedelta(days=n) for n in range((last - first).days + 1))
    documents = (make(DEFAULT_SEED, who, day, now) for day in days)
    return _encode([one for one in documents if one is not None], None)


def _encode(documents: Iterable[Json], following: str | None) -> bytes:
    return msgspec.json.encode({"data": list(documents), "next_token": following})


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--now", type=datetime.fromisoformat, required=True)
    parser.add_argument("--failing", type=int, required=True)
    asked = parser.parse_args()
    serve(_Service(asked.now.astimezone(UTC), asked.failing), 0)


if __name__ == "__main__":
    _main()
