"""A webhook receiver that only counts, in a process of its own: what benches deliver to.

It verifies nothing. With `record` it also keeps, for every object of a post, who it is about, when it
came and the time of its newest glucose sample as written.
"""

import argparse
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from wearable_pipeline.sandbox._process import ChildProcess
from wearable_pipeline.sandbox.fleet import serve

Message = MutableMapping[str, Any]

_SAMPLES = b'"blood_glucose_samples":['
_TIME = b'"timestamp":"'


class _About(msgspec.Struct):
    user_id: str = ""


class _Post(msgspec.Struct):
    user: _About = msgspec.field(default_factory=_About)
    data: list[msgspec.Raw] = []


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """One object of a post: whose, when it came, its newest glucose sample as written."""

    user_id: str
    received_at: float
    newest: str | None

    @property
    def newest_at(self) -> datetime | None:
        """The instant of the newest glucose sample; None when there is none."""
        return None if self.newest is None else datetime.fromisoformat(self.newest).astimezone(UTC)


class Counts(msgspec.Struct, frozen=True):
    """What has come so far."""

    posts: int
    objects: int
    bytes: int
    cpu_seconds: float


@dataclass(slots=True)
class _Receiver:
    record: bool
    posts: int = 0
    objects: int = 0
    size: int = 0
    arrivals: list[Arrival] = field(default_factory=list)

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        answer = b"ok"
        if scope["path"] == "/control/counts":
            answer = msgspec.json.encode(
                Counts(self.posts, self.objects, self.size, time.process_time())
            )
        elif scope["path"] == "/control/arrivals":
            answer = msgspec.json.encode(self.arrivals)
        else:
            self._count(body)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-length", str(len(answer)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": answer})

    def _count(self, body: bytes) -> None:
        self.posts += 1
        self.size += len(body)
        post = msgspec.json.decode(body, type=_Post)
        self.objects += len(post.data)
        if self.record:
            now = time.time()
            self.arrivals += [
                Arrival(post.user.user_id, now, _newest(bytes(item))) for item in post.data
            ]


def _newest(item: bytes) -> str | None:
    start = item.find(_SAMPLES)
    end = item.find(b"]", start)
    at = item.rfind(_TIME, start, end) if start >= 0 else -1
    if at < 0:
        return None
    at += len(_TIME)
    return item[at : item.index(b'"', at)].decode()


class ReceiverProcess(ChildProcess):
    """The receiver in a child process; stop it with `close`."""

    def __init__(self, *, record: bool = False) -> None:
        arguments = ["--record"] if record else []
        super().__init__("wearable_pipeline_tests.bench._receiver", *arguments, timeout=60)
        self.url = f"{self.origin}/hook"

    def counts(self) -> Counts:
        """What has come so far."""
        answer = self._client.get("/control/counts")
        return msgspec.json.decode(answer.raise_for_status().content, type=Counts)

    def arrivals(self) -> list[Arrival]:
        """Every object that came, in order; empty unless started with `record`."""
        answer = self._client.get("/control/arrivals")
        return msgspec.json.decode(answer.raise_for_status().content, type=list[Arrival])


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true")
    serve(_Receiver(parser.parse_args().record), 0)


if __name__ == "__main__":
    _main()
