"""The webhook destination: one signed POST per row, in the shape and with the headers of Terra.

Every try is signed anew because receivers refuse old signatures; body and trace id stay the same,
so a receiver that remembers trace ids sees each content once.
"""

import asyncio
import contextlib
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from wearable_pipeline.destinations._addresses import (
    AddressGuard,
    RefusedAddressError,
    guard_url,
)
from wearable_pipeline.destinations._contract import (
    Batch,
    Destination,
    Item,
    Json,
    Outcome,
    delivered,
    permanent,
    transient,
    untried,
)
from wearable_pipeline.errors import UsageError
from wearable_pipeline.raw.client import parse_retry_after
from wearable_pipeline.settings import Settings

VERSION = "2022-03-16"
TIMEOUT_SECONDS = 8.0
CONCURRENCY = 16
# Until the receiver has shown that it answers.
FIRST_CONCURRENCY = 4
# So many failures to reach it in a row, and the rest of the pass is left for later.
OUTAGE_AFTER = 10
# Shorter than receivers commonly keep idle connections: a POST on a dead one is not repeated.
KEEP_ALIVE_SECONDS = 4.0
_DRAIN_BYTES = 64 * 1024


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """Value of the signature header: `t=<unix>,v1=<hex>` over `<unix>.<body>`."""
    digest = hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def encode_event(item: Item, payload: Json) -> bytes:
    """The body of an item's event: a function of content and user, the same at every try."""
    user = item.user
    written_at = datetime.fromtimestamp(item.ordering_timestamp / 1000, UTC)
    return msgspec.json.encode(
        {
            "user": {
                "user_id": user.user_id,
                "provider": user.provider,
                "created_at": _instant(user.created_at) if user.created_at else None,
                "last_webhook_update": _instant(written_at),
                "scopes": user.scopes,
                "reference_id": user.reference_id,
                "active": user.is_active,
            },
            "data": [payload],
            "type": item.table,
            "version": VERSION,
        }
    )


def headers_for(item: Item, body: bytes, secret: str, timestamp: int) -> dict[str, str]:
    """Headers of one try."""
    signature = sign(secret, timestamp, body)
    return {
        "content-type": "application/json",
        "terra-signature": signature,
        "x-terra-signature": signature,
        "x-terra-trace-id": item.trace_id,
        "x-terra-ordering-timestamp": str(item.ordering_timestamp),
        "terra-reference": item.trace_id,
    }


def judge(item: Item, status: int, retry_after: str | None, now: datetime) -> Outcome:
    """What an answer's status means for an item.

    A redirect is a failure: following it would carry health data to a place nobody configured. 410
    says the receiver is gone for good. Other 4xx are tried again within the budget: they are mostly
    a deployment going on or a secret being rotated, and a parked row needs a person.
    """
    if 200 <= status < 300:
        return delivered(item)
    if status == 410:
        return permanent(item, "webhook: the receiver is gone (HTTP 410)")
    if 300 <= status < 400:
        return transient(
            item, f"webhook: redirected (HTTP {status}); set WEARABLE_WEBHOOK_URL to the target"
        )
    return transient(item, f"webhook: refused (HTTP {status})", parse_retry_after(retry_after, now))


class WebhookSender:
    """Posts items to one URL, many at once; a context manager."""

    def __init__(
        self,
        url: str,
        secret: str,
        guard: AddressGuard,
        *,
        is_wanted: Callable[[str], bool] = lambda table: True,
        concurrency: int = CONCURRENCY,
        timeout: float = TIMEOUT_SECONDS,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._secret = secret
        self._guard = guard
        self._is_wanted = is_wanted
        self._concurrency = concurrency
        self._timeout = timeout
        self._unix_time = unix_time
        self._has_answered = False
        self._unreached = 0
        self._stopped: str | None = None
        self._runner = asyncio.Runner()
        self._client = httpx.AsyncClient(
            transport=AiohttpTransport(client=self._open_session),
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": "wearable-pipeline", "accept": "*/*"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def deliver(self, batch: Batch) -> Iterator[Outcome]:
        """Post every item; an outcome as soon as its answer is there."""
        if not self._is_wanted(batch.table.name):
            for item in batch.items:
                yield permanent(item, "webhook: WEARABLE_WEBHOOK_TYPES does not name this type")
            return
        waiting = deque(zip(batch.items, batch.payloads, strict=True))
        running: set[asyncio.Task[Outcome]] = set()
        loop = self._runner.get_loop()
        try:
            while True:
                while waiting and self._stopped is None and len(running) < self._slots:
                    running.add(loop.create_task(self._post(*waiting.popleft())))
                if not running:
                    break
                done, running = self._runner.run(_wait_for_one(running))
                for task in done:
                    yield task.result()
        finally:
            if running:
                self._runner.run(_cancel(running))
        for item, _ in waiting:
            yield untried(item, self._stopped or "")

    @property
    def _slots(self) -> int:
        return (
            self._concurrency if self._has_answered else min(FIRST_CONCURRENCY, self._concurrency)
        )

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._concurrency,
                keepalive_timeout=KEEP_ALIVE_SECONDS,
                socket_factory=self._guard,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def _post(self, item: Item, payload: Json) -> Outcome:
        outcome = await self._try(item, payload)
        if outcome.kind == "delivered":
            self._has_answered = True
        if outcome.retry_after:
            self._stopped = "webhook: the receiver asked for a pause"
        elif self._unreached >= OUTAGE_AFTER:
            self._stopped = f"webhook: not reached {OUTAGE_AFTER} times in a row"
        return outcome

    async def _try(self, item: Item, payload: Json) -> Outcome:
        body = encode_event(item, payload)
        now = self._unix_time()
        headers = headers_for(item, body, self._secret, int(now))
        try:
            async with asyncio.timeout(self._timeout):
                request = self._client.build_request(
                    "POST", self._url, content=body, headers=headers
                )
                response = await self._client.send(request, stream=True)
        except TimeoutError:
            self._unreached += 1
            return transient(item, f"webhook: no answer within {self._timeout:g} s")
        except httpx.InvalidURL:
            return permanent(item, "webhook: WEARABLE_WEBHOOK_URL is not a URL")
        except httpx.TransportError as error:
            self._unreached += 1
            return transient(item, _explain(error))
        self._unreached = 0
        # The status is the answer; the rest is read only to use the connection again.
        with contextlib.suppress(TimeoutError, httpx.TransportError):
            async with asyncio.timeout(1):
                await _drain(response)
        return judge(
            item,
            response.status_code,
            response.headers.get("retry-after"),
            datetime.fromtimestamp(now, UTC),
        )


async def _drain(response: httpx.Response) -> None:
    try:
        size = 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > _DRAIN_BYTES:
                return
    finally:
        await response.aclose()


async def _wait_for_one(
    running: set[asyncio.Task[Outcome]],
) -> tuple[set[asyncio.Task[Outcome]], set[asyncio.Task[Outcome]]]:
    return await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)


async def _cancel(running: set[asyncio.Task[Outcome]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _explain(error: httpx.TransportError) -> str:
    cause = error.__cause__
    under = getattr(cause, "os_error", None)
    if isinstance(under, RefusedAddressError):
        return f"webhook: {under}; WEARABLE_WEBHOOK_ALLOW_PRIVATE=true allows private ones"
    if isinstance(cause, TimeoutError):
        return "webhook: no answer in time"
    return f"webhook: cannot be reached ({type(cause or error).__name__})"


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def is_wanted(settings: Settings, table: str) -> bool:
    """Whether `webhook_types` names the table, or names nothing."""
    return not settings.webhook_types or table in settings.webhook_types


def open_webhook(settings: Settings) -> WebhookSender:
    """A sender for the configured URL. Raises UsageError when it may not or cannot be used."""
    url = settings.webhook_url
    if url is None:
        raise UsageError("the webhook is not configured: set WEARABLE_WEBHOOK_URL")
    if settings.webhook_secret is None:
        raise UsageError(
            "WEARABLE_WEBHOOK_SECRET is not set: receivers could not tell forged posts from ours"
        )
    guard = guard_url(
        url,
        "WEARABLE_WEBHOOK_URL",
        allow_private=bool(getattr(settings, "webhook_allow_private", False)),
    )
    return WebhookSender(
        url,
        settings.webhook_secret.get_secret_value(),
        guard,
        is_wanted=lambda table: is_wanted(settings, table),
        concurrency=int(getattr(settings, "webhook_concurrency", CONCURRENCY)),
    )


DESTINATION = Destination(
    name="webhook",
    title="Webhook",
    kind="webhook",
    summary="One signed POST per new or changed row, readable by applications written for Terra.",
    required=("webhook_url",),
    optional=("webhook_secret", "webhook_types", "webhook_allow_private", "webhook_concurrency"),
    open=open_webhook,
    wants=is_wanted,
)
