"""A real receiver of webhooks for demo and tests: an HTTP server that keeps every post it gets.

It verifies signatures by the rules of Terra's clients on its own, sharing no code with the sender,
and fails on demand. `python -m wearable_pipeline.sandbox.receiver --port 8098 --secret …` runs it.

`POST /hook` (any path below `/` works) takes posts. `GET /control/posts` tells them,
`PUT /control/plan` says how to answer the next ones, `DELETE /control/posts` forgets all.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import socket
import time
from collections import deque
from collections.abc import Sequence

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from wearable_pipeline.sandbox._process import (
    LOOPBACK,
    ChildProcess,
    stop_with_parent,
    tell_port,
)

TOLERANCE_SECONDS = 300
METHODS = ["POST", "PUT", "GET", "DELETE", "PATCH"]


class Answer(msgspec.Struct, frozen=True):
    """How to answer a post.

    `delay_seconds` waits before, `user_id` limits the answer to posts about that user.
    """

    status: int = 200
    headers: dict[str, str] = {}
    body: str = "ok"
    delay_seconds: float = 0.0
    user_id: str | None = None


class Plan(msgspec.Struct, frozen=True):
    """Answers for the next posts, one each, and the answer for every post after them."""

    first: tuple[Answer, ...] = ()
    then: Answer = Answer()


class Post(msgspec.Struct, frozen=True):
    """A post as it arrived. `body` is verbatim; header names are lower case."""

    received_at: float
    method: str
    path: str
    headers: dict[str, str]
    body_base64: str
    is_signed: bool
    status: int

    @property
    def body(self) -> bytes:
        """The exact bytes of the body."""
        return base64.b64decode(self.body_base64)

    @property
    def trace_id(self) -> str:
        """What makes the content unique over retries."""
        return self.headers.get("x-terra-trace-id", "")


def verify(secret: str, header: str, body: bytes, now: float) -> bool:
    """Whether one of the header's `v1` signatures fits the body and is at most five minutes old."""
    parts = [part.strip().partition("=") for part in header.split(",")]
    stamps = [value for name, _, value in parts if name == "t"]
    if len(stamps) != 1 or not stamps[0].isdigit():
        return False
    if abs(now - int(stamps[0])) > TOLERANCE_SECONDS:
        return False
    expected = hmac.new(secret.encode(), stamps[0].encode() + b"." + body, hashlib.sha256)
    return any(
        hmac.compare_digest(value.encode(), expected.hexdigest().encode())
        for name, _, value in parts
        if name == "v1"
    )


class _Inbox:
    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._posts: list[Post] = []
        self._first: deque[Answer] = deque()
        self._then = Answer()

    async def take(self, request: Request) -> Response:
        body = await request.body()
        answer = self._next_answer(body)
        self._posts.append(
            Post(
                received_at=time.time(),
                method=request.method,
                path=request.url.path,
                headers={name.lower(): value for name, value in request.headers.items()},
                body_base64=base64.b64encode(body).decode(),
                is_signed=verify(
                    self._secret, request.headers.get("terra-signature", ""), body, time.time()
                ),
                status=answer.status,
            )
        )
        if answer.delay_seconds:
            await asyncio.sleep(answer.delay_seconds)
        return PlainTextResponse(answer.body, answer.status, answer.headers)

    async def tell(self, _request: Request) -> Response:
        return Response(msgspec.json.encode(self._posts), media_type="application/json")

    async def plan(self, request: Request) -> Response:
        try:
            plan = msgspec.json.decode(await request.body(), type=Plan)
        except msgspec.MsgspecError as error:
            return PlainTextResponse(str(error), 400)
        self._first = deque(plan.first)
        self._then = plan.then
        return Response(status_code=204)

    async def forget(self, _request: Request) -> Response:
        self._posts.clear()
        self._first.clear()
        self._then = Answer()
        return Response(status_code=204)

    def _next_answer(self, body: bytes) -> Answer:
        for answer in self._first:
            if answer.user_id is None or answer.user_id.encode() in body:
                self._first.remove(answer)
                return answer
        if self._then.user_id is None or self._then.user_id.encode() in body:
            return self._then
        return Answer()


def create_app(secret: str) -> Starlette:
    """The receiver as an ASGI application, its inbox empty."""
    inbox = _Inbox(secret)
    return Starlette(
        routes=[
            Route("/control/posts", inbox.tell, methods=["GET"]),
            Route("/control/posts", inbox.forget, methods=["DELETE"]),
            Route("/control/plan", inbox.plan, methods=["PUT"]),
            Route("/{path:path}", inbox.take, methods=METHODS),
        ]
    )


class Receiver(ChildProcess):
    """A receiver in a process of its own; a context manager.

    Nothing is shared with the sender's process, so a sender can be killed without losing what was
    received. The process ends with its parent.
    """

    def __init__(self, secret: str, port: int = 0) -> None:
        # The secret goes by the environment: arguments show in every process list.
        super().__init__(
            __name__, "--port", str(port), "--child", environment={"RECEIVER_SECRET": secret}
        )

    @property
    def url(self) -> str:
        """Where to post."""
        return f"{self.origin}/hook"

    def posts(self) -> list[Post]:
        """Everything received so far, in order of arrival."""
        answer = self._client.get("/control/posts").raise_for_status()
        return msgspec.json.decode(answer.content, type=list[Post])

    def wait_for_posts(self, count: int, seconds: float = 10.0) -> list[Post]:
        """The posts, once there are at least `count`. Raises TimeoutError after `seconds`."""
        deadline = time.monotonic() + seconds
        while len(posts := self.posts()) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(posts)} posts after {seconds:g} s, not {count}")
            time.sleep(0.02)
        return posts

    def answer(self, first: Sequence[Answer] = (), then: Answer | None = None) -> None:
        """Answer the next posts with `first`, one each, and all later ones with `then` (200)."""
        plan = Plan(tuple(first), then or Answer())
        self._client.put("/control/plan", content=msgspec.json.encode(plan)).raise_for_status()

    def forget(self) -> None:
        """Empty the inbox and answer everything with 200."""
        self._client.delete("/control/posts").raise_for_status()


def run(secret: str, host: str = LOOPBACK, port: int = 8098) -> None:
    """Serve until stopped."""
    _serve(secret, host, port, announce=False)


def _serve(secret: str, host: str, port: int, *, announce: bool) -> None:
    with socket.create_server((host, port)) as listener:
        config = uvicorn.Config(
            create_app(secret),
            log_level="critical",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        if announce:
            # The socket listens already: whoever connects now is served once the server is up.
            tell_port(listener.getsockname()[1])
            stop_with_parent(server)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _main() -> None:
    parser = argparse.ArgumentParser(description="Receiver of webhooks")
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=8098)
    parser.add_argument("--secret", default=os.environ.get("RECEIVER_SECRET", "sandbox"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    _serve(asked.secret, asked.host, asked.port, announce=asked.child)


if __name__ == "__main__":
    _main()
