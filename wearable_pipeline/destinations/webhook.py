"""The webhook destination: signed POSTs in the shape and with the headers of Terra.

A row travels alone, those of a large request up to ten at a time. Every try is signed anew because
receivers refuse old signatures; body and trace id stay the same, so a receiver that remembers trace
ids sees each content once.
"""

import asyncio
import contextlib
import hashlib
import hmac
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Self

import aiohttp
import msgspec
from pydantic import Field, SecretStr

from wearable_pipeline.destinations._addresses import (
    AddressGuard,
    RefusedAddressError,
    guard_url,
)
from wearable_pipeline.destinations._contract import (
    Batch,
    Destination,
    DestinationSettings,
    Event,
    Filter,
    Item,
    Outcome,
    delivered,
    permanent,
    transient,
    untried,
)
from wearable_pipeline.destinations._events import VERSION, user_object
from wearable_pipeline.errors import UsageError
from wearable_pipeline.raw.client import parse_retry_after
from wearable_pipeline.settings import Settings

TIMEOUT_SECONDS = 8.0
CONCURRENCY = 16
# Until the receiver has shown that it answers.
FIRST_CONCURRENCY = 4
# So many failures to reach it in a row, and the rest of the pass is left for later.
OUTAGE_AFTER = 10
# Shorter than receivers commonly keep idle connections: a POST on a dead one is not repeated.
KEEP_ALIVE_SECONDS = 4.0
# What one POST carries at most of a large request.
CHUNK_OBJECTS = 10
CHUNK_BYTES = 10 * 1024 * 1024
_DRAIN_BYTES = 64 * 1024
_GATHER_SECONDS = 0.005

Parts = Sequence[bytes | memoryview]


def sign(secrets: Sequence[str], timestamp: int, body: bytes) -> str:
    """Value of the signature header: `t=<unix>`, then a `v1=<hex>` over `<unix>.<body>` per secret.

    Receivers take the header when any of its `v1` fits the secret they know, so two secrets at once
    let them change from the old one to the new one whenever they like.
    """
    stamped = b"%d." % timestamp
    parts = [f"t={timestamp}"]
    for secret in secrets:
        digest = hmac.new(secret.encode(), stamped, hashlib.sha256)
        digest.update(body)
        parts.append(f"v1={digest.hexdigest()}")
    return ",".join(parts)


def split_secrets(secret: str) -> list[str]:
    """The signing secrets, newest first; a comma separates them."""
    return [part.strip() for part in secret.split(",") if part.strip()]


def encode_data(items: Sequence[Item], texts: Sequence[bytes | memoryview]) -> bytes:
    """The body of rows of one user and type: a function of content and user, the same at every try."""
    first = items[0]
    written_at = datetime.fromtimestamp(first.ordering_timestamp / 1000, UTC)
    parts: list[bytes | memoryview] = [
        b'{"user":',
        msgspec.json.encode(user_object(first.user, written_at)),
        b',"data":[',
    ]
    for index, text in enumerate(texts):
        parts += [b",", text] if index else [text]
    parts.append(b'],"type":"%s","version":"%s"}' % (first.table.encode(), VERSION.encode()))
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Post:
    """One POST to make: the items it speaks for and how to make its body, which is large."""

    items: tuple[Item, ...]
    body: Callable[[], bytes]

    @property
    def trace_id(self) -> str:
        """Of several items: of exactly these contents, for a receiver may drop what it knows."""
        if len(self.items) == 1:
            return self.items[0].trace_id
        together = ",".join(sorted(item.trace_id for item in self.items))
        return f"{uuid.uuid5(uuid.NAMESPACE_OID, together)}:chunk:{self.items[0].chunk}"

    def headers(self, signature: str) -> dict[str, str]:
        """Headers of one try."""
        first = self.items[0]
        trace_id = self.trace_id
        return {
            "content-type": "application/json",
            "terra-signature": signature,
            "x-terra-signature": signature,
            "x-terra-trace-id": trace_id,
            "x-terra-ordering-timestamp": str(first.ordering_timestamp),
            "terra-reference": first.reference or trace_id,
        }


def plan_posts(batch: Batch) -> Iterator[_Post]:
    """The POSTs of a batch: a row each, or as many of a chunk as belong and fit together."""
    gathered: list[int] = []
    kin: object = None
    size = 0

    def flush() -> Iterator[_Post]:
        if gathered:
            items = tuple(batch.items[i] for i in gathered)
            texts = [batch.texts[i] for i in gathered]
            yield _Post(items, partial(encode_data, items, texts))

    for index, item in enumerate(batch.items):
        key = (item.user.user_id, item.reference, item.chunk, item.ordering_timestamp)
        length = len(batch.texts[index])
        if (
            item.chunk is None
            or key != kin
            or len(gathered) == CHUNK_OBJECTS
            or size + length > CHUNK_BYTES
        ):
            yield from flush()
            gathered, kin, size = [], key, 0
        gathered.append(index)
        size += length
    yield from flush()


def judge(
    item: Item, status: int, retry_after: str | None, now: datetime, name: str = "webhook"
) -> Outcome:
    """What an answer's status means for an item.

    A redirect is a failure: following it would carry health data to a place nobody configured. 410
    says the receiver is gone for good. Other 4xx are tried again within the budget: they are mostly
    a deployment going on or a secret being rotated, and a parked row needs a person.
    """
    if 200 <= status < 300:
        return delivered(item)
    if status == 410:
        return permanent(item, f"{name}: the receiver is gone (HTTP 410)")
    if 300 <= status < 400:
        return transient(
            item, f"{name}: redirected (HTTP {status}); set {_setting(name, 'url')} to the target"
        )
    return transient(item, f"{name}: refused (HTTP {status})", parse_retry_after(retry_after, now))


def _setting(name: str, key: str) -> str:
    """How to call a setting of the target `name`."""
    return f"WEARABLE_WEBHOOK_{key.upper()}" if name == "webhook" else f"{name}.{key}"


class WebhookSender:
    """Posts items to one URL, many at once; a context manager."""

    def __init__(
        self,
        url: str,
        secrets: Sequence[str],
        guard: AddressGuard,
        *,
        name: str = "webhook",
        concurrency: int = CONCURRENCY,
        timeout: float = TIMEOUT_SECONDS,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._secrets = tuple(secrets)
        self._guard = guard
        self._name = name
        self._concurrency = concurrency
        self._timeout = timeout
        self._unix_time = unix_time
        self._has_answered = False
        self._unreached = 0
        self._stopped: str | None = None
        self._runner = asyncio.Runner()
        self._session: aiohttp.ClientSession | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Post every item; an outcome as soon as its answer is there."""
        return self._work_off([[post] for post in plan_posts(batch)])

    def deliver_events(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """Post every event; those of one user one after the other."""
        of_user: dict[str, list[_Post]] = {}
        for event in events:
            body = partial(msgspec.json.encode, event.body)
            posts = of_user.setdefault(event.item.user.user_id, [])
            posts.append(_Post((event.item,), body))
        return self._work_off(list(of_user.values()))

    def _work_off(self, lines: Sequence[Sequence[_Post]]) -> Iterator[Outcome]:
        """Post the lines side by side, the posts of a line in their order."""
        waiting = deque(lines)
        outcomes: list[Outcome] = []
        news = asyncio.Event()
        running: set[asyncio.Task[None]] = set()
        loop = self._runner.get_loop()

        async def work() -> None:
            try:
                while waiting and self._stopped is None:
                    outcomes.extend(await self._post_line(waiting.popleft()))
                    news.set()
            finally:
                news.set()

        async def wait() -> None:
            await news.wait()
            news.clear()
            # The posts go on meanwhile; waking up for each of them costs as much as making it.
            await asyncio.sleep(_GATHER_SECONDS)

        try:
            while True:
                missing = min(len(waiting), self._slots - len(running))
                if self._stopped is None:
                    running.update(loop.create_task(work()) for _ in range(missing))
                if not running:
                    break
                # Not `run`: it sets and resets signal handlers, each time dearer than a post.
                loop.run_until_complete(wait())
                for task in [task for task in running if task.done()]:
                    running.remove(task)
                    task.result()
                yield from outcomes
                outcomes.clear()
        finally:
            if running:
                loop.run_until_complete(_cancel(running))
        for line in waiting:
            for post in line:
                for item in post.items:
                    yield untried(item, self._stopped or "")

    @property
    def _slots(self) -> int:
        return (
            self._concurrency if self._has_answered else min(FIRST_CONCURRENCY, self._concurrency)
        )

    def _open_session(self) -> aiohttp.ClientSession:
        # Inside the loop: aiohttp ties a session to the loop that runs.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._concurrency,
                    keepalive_timeout=KEEP_ALIVE_SECONDS,
                    socket_factory=self._guard,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "wearable-pipeline", "Accept": "*/*"},
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    async def _post_line(self, line: Sequence[_Post]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for post in line:
            if self._stopped is not None:
                outcomes += [untried(item, self._stopped) for item in post.items]
                continue
            found = await self._try(post)
            outcomes += found
            if found[0].kind == "delivered":
                self._has_answered = True
            if found[0].retry_after:
                self._stopped = f"{self._name}: the receiver asked for a pause"
            elif self._unreached >= OUTAGE_AFTER:
                self._stopped = f"{self._name}: not reached {OUTAGE_AFTER} times in a row"
        return outcomes

    async def _try(self, post: _Post) -> list[Outcome]:
        name = self._name
        body = post.body()
        now = self._unix_time()
        headers = post.headers(sign(self._secrets, int(now), body))
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._open_session().post(
                    self._url, data=body, headers=headers, allow_redirects=False
                )
        except TimeoutError:
            self._unreached += 1
            message = f"{name}: no answer within {self._timeout:g} s"
            return [transient(item, message) for item in post.items]
        except aiohttp.InvalidURL:
            message = f"{name}: {_setting(name, 'url')} is not a URL"
            return [permanent(item, message) for item in post.items]
        except (aiohttp.ClientError, OSError) as error:
            self._unreached += 1
            message = self._explain(error)
            return [transient(item, message) for item in post.items]
        self._unreached = 0
        # The status is the answer; the rest is read only to use the connection again.
        if response.content.is_eof():
            response.release()
        else:
            with contextlib.suppress(TimeoutError, aiohttp.ClientError):
                async with asyncio.timeout(1):
                    await _drain(response)
        asked = response.headers.get("retry-after")
        at = datetime.fromtimestamp(now, UTC)
        return [judge(item, response.status, asked, at, name) for item in post.items]

    def _explain(self, error: Exception) -> str:
        under = getattr(error, "os_error", error)
        if isinstance(under, RefusedAddressError):
            allowing = _setting(self._name, "allow_private")
            return f"{self._name}: {under}; {allowing}=true allows private ones"
        return f"{self._name}: cannot be reached ({type(error).__name__})"


async def _drain(response: aiohttp.ClientResponse) -> None:
    size = 0
    try:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > _DRAIN_BYTES:
                return
    finally:
        # Back to the pool when all of it was read, closed otherwise.
        if response.content.at_eof():
            response.release()
        else:
            response.close()


async def _cancel(running: set[asyncio.Task[None]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


class WebhookSettings(DestinationSettings):
    """What one webhook needs."""

    url: str = Field(repr=False, description="Where events are posted.")
    secret: SecretStr | None = Field(
        None, description="Signing secrets, newest first, separated by commas."
    )
    allow_private: bool = Field(False, description="Let it reach private addresses.")
    concurrency: int = Field(CONCURRENCY, ge=1, le=256, description="Posts at a time.")
    timeout_seconds: float = Field(
        TIMEOUT_SECONDS, gt=0, le=60, description="How long to wait for an answer."
    )


def open_webhook(settings: WebhookSettings, name: str = "webhook") -> WebhookSender:
    """A sender for the URL. Raises UsageError when it may not or cannot be used."""
    secrets = split_secrets(settings.secret.get_secret_value()) if settings.secret else []
    if not secrets:
        raise UsageError(
            f"{_setting(name, 'secret')} is not set: receivers could not tell forged posts from ours"
        )
    guard = guard_url(settings.url, _setting(name, "url"), allow_private=settings.allow_private)
    return WebhookSender(
        settings.url,
        secrets,
        guard,
        name=name,
        concurrency=settings.concurrency,
        timeout=settings.timeout_seconds,
    )


def read_environment(settings: Settings) -> tuple[WebhookSettings, Filter] | None:
    """The webhook of the `WEARABLE_WEBHOOK_…` variables."""
    if settings.webhook_url is None:
        return None
    return (
        WebhookSettings(
            url=settings.webhook_url,
            secret=settings.webhook_secret,
            allow_private=settings.webhook_allow_private,
            concurrency=settings.webhook_concurrency,
        ),
        Filter(types=frozenset(settings.webhook_types)),
    )


DESTINATION = Destination(
    name="webhook",
    title="Webhook",
    kind="webhook",
    summary="One signed POST per new or changed row, readable by applications written for Terra.",
    settings=WebhookSettings,
    open=open_webhook,
    from_environment=read_environment,
    takes_events=True,
    bundles=True,
    batch_rows=500,
)
