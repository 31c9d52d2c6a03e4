"""The one HTTP client towards providers: bounded, retrying, silent about what it carries.

No header, query, path or body is ever logged or put into an error: paths hold patient ids, queries hold
tokens. Errors name the provider, the status and the way out.
"""

import asyncio
import email.utils
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import aiohttp
import httpx
import stamina
from httpx_aiohttp import AiohttpTransport

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    RateLimitedError,
    TransientError,
)
from wearable_pipeline.providers._contract import Answer

MAX_BODY_BYTES = 64 * 1024 * 1024
TIMEOUT_SECONDS = 20.0
TOTAL_SECONDS = 90.0
ATTEMPTS = 3
# A longer wait than this is for the ledger to keep, not for a run to sit through.
LONGEST_WAIT = timedelta(seconds=20)
DEFAULT_THROTTLE = timedelta(minutes=5)
# Nobody is left alone for longer on the word of one header.
LONGEST_RETRY_AFTER = timedelta(days=7)
# A second coding inside the first would multiply what one small chunk can grow to.
_ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})

Sleep = Callable[[float], Awaitable[None]]


class Pace:
    """At most `per_second` calls in the long run, evenly spaced, for every task of this process."""

    def __init__(self, per_second: float, sleep: Sleep = asyncio.sleep) -> None:
        self._gap = 1.0 / per_second
        self._next = 0.0
        self._sleep = sleep

    async def wait(self) -> None:
        """Return when this caller's turn has come."""
        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + self._gap
        if turn > now:
            await self._sleep(turn - now)


class HttpClient:
    """Implements the providers' `Client` for one provider; an async context manager."""

    def __init__(
        self,
        provider: str,
        *,
        max_concurrency: int,
        requests_per_second: float,
        now: Callable[[], datetime],
        transport: httpx.AsyncBaseTransport | None = None,
        timeout: float = TIMEOUT_SECONDS,
        attempts: int = ATTEMPTS,
        wait_initial: float = 0.5,
    ) -> None:
        self._provider = provider
        self._now = now
        self._slots = asyncio.Semaphore(max_concurrency)
        self._pace = Pace(requests_per_second)
        self._attempts = attempts
        self._wait_initial = wait_initial
        self._client = httpx.AsyncClient(
            # httpx's own pool costs O(n) per request; aiohttp's does not.
            transport=transport
            or AiohttpTransport(
                client=lambda: aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=max_concurrency),
                    cookie_jar=aiohttp.DummyCookieJar(),
                )
            ),
            timeout=timeout,
            follow_redirects=False,
            headers={"user-agent": "wearable-pipeline", "accept-encoding": "gzip"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        accept: Sequence[int] = (200,),
    ) -> Answer:
        """Return the answer when its status is in `accept`; see the contract for the errors."""
        try:
            request = self._client.build_request(
                method, url, params=params, headers=headers, json=json
            )
        except (httpx.InvalidURL, ValueError):
            raise PermanentError(f"{self._provider}: the configured address is not a URL") from None
        async for attempt in stamina.retry_context(
            on=_worth_another_try,
            attempts=self._attempts,
            timeout=TOTAL_SECONDS,
            wait_initial=self._wait_initial,
            wait_max=LONGEST_WAIT.total_seconds(),
        ):
            with attempt:
                return await self._send(request, accept)
        raise AssertionError("retry_context ends by returning or raising")

    async def _send(self, request: httpx.Request, accept: Sequence[int]) -> Answer:
        async with self._slots:
            await self._pace.wait()
            try:
                async with asyncio.timeout(TOTAL_SECONDS):
                    response = await self._client.send(request, stream=True)
                    try:
                        body = await self._read(response)
                    finally:
                        await response.aclose()
            except (httpx.TimeoutException, TimeoutError) as error:
                cause = error.__cause__
                # The transport calls a refused or broken connection a time-out, too.
                if isinstance(cause, aiohttp.ClientConnectionError) and not isinstance(
                    cause, TimeoutError
                ):
                    raise TransientError(
                        f"{self._provider}: cannot be reached ({type(cause).__name__})"
                    ) from None
                raise TransientError(f"{self._provider}: no answer in time") from None
            except httpx.DecodingError:
                raise BadPayloadError(
                    f"{self._provider}: the answer's encoding is broken"
                ) from None
            except (httpx.TransportError, aiohttp.ClientError, OSError) as error:
                raise TransientError(
                    f"{self._provider}: cannot be reached ({type(error).__name__})"
                ) from None
        answer = Answer(response.status_code, response.headers, body, self._now())
        if response.status_code in accept:
            return answer
        raise self._error_for(response.status_code, response.headers, body)

    async def _read(self, response: httpx.Response) -> bytes:
        if response.headers.get("content-encoding", "").strip().lower() not in _ENCODINGS:
            raise BadPayloadError(
                f"{self._provider}: the answer's encoding is not one we asked for"
            )
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.aiter_bytes():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise BadPayloadError(
                    f"{self._provider}: the answer is larger than {MAX_BODY_BYTES >> 20} MiB"
                )
            chunks.append(chunk)
        return b"".join(chunks)

    def _error_for(
        self, status: int, headers: Mapping[str, str], body: bytes
    ) -> TransientError | PermanentError:
        if status == 429 or b"error code: 1015" in body[:4096].lower():
            return RateLimitedError(
                f"{self._provider}: asked to slow down (HTTP {status})",
                parse_retry_after(headers.get("retry-after"), self._now()) or DEFAULT_THROTTLE,
            )
        if status in (401, 403):
            return NotConnectedError(
                f"{self._provider}: access refused (HTTP {status}): connect this user again"
            )
        if status == 408 or status >= 500:
            return TransientError(
                f"{self._provider}: server trouble (HTTP {status})",
                parse_retry_after(headers.get("retry-after"), self._now()),
            )
        return PermanentError(f"{self._provider}: request refused (HTTP {status})")


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """How long a Retry-After header asks to wait: seconds or an HTTP date; None when it says nothing."""
    if not value:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        # int() refuses thousands of digits.
        return LONGEST_RETRY_AFTER if len(text) > 9 else _bounded(timedelta(seconds=int(text)))
    try:
        at = email.utils.parsedate_to_datetime(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return _bounded(at - now)
    except (ValueError, OverflowError):
        return None


def _bounded(wait: timedelta) -> timedelta:
    return min(max(wait, timedelta()), LONGEST_RETRY_AFTER)


def _worth_another_try(error: Exception) -> bool | timedelta:
    if not isinstance(error, TransientError):
        return False
    wait = error.retry_after
    if wait is None:
        return True
    if wait > LONGEST_WAIT:
        return False
    # Everybody was told the same second: spread the return.
    return wait + timedelta(seconds=random.uniform(0, 1))  # noqa: S311 - jitter, not a secret
