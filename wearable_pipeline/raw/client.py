"""The one HTTP client towards providers: bounded, retrying, silent about what it carries.

No header, query, path or body is ever logged or put into an error: paths hold patient ids, queries hold
tokens. Errors name the provider, the status and the way out.
"""

import asyncio
import email.utils
import random
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Protocol, Self

import aiohttp
import msgspec
import stamina
import yarl

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
# How each coding is opened. A second coding inside the first would multiply what one small chunk can
# grow to, so there is none of two.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_PIECE_BYTES = 256 * 1024

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


class Turns(Protocol):
    """Says when a request may leave."""

    async def wait(self) -> None:
        """Return when this caller's turn has come."""
        ...


class Transport(Protocol):
    """What carries a request; tests put their own in place of the network."""

    async def send(
        self, method: str, url: yarl.URL, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer. Raises aiohttp's errors."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class HttpClient:
    """Implements the providers' `Client` for one provider; an async context manager.

    `pace` makes, from `requests_per_second`, what every request waits for, retries included; by default
    requests are spaced within this process.
    """

    def __init__(
        self,
        provider: str,
        *,
        max_concurrency: int,
        requests_per_second: float,
        now: Callable[[], datetime],
        pace: Callable[[float], Turns] = Pace,
        transport: Transport | None = None,
        timeout: float = TIMEOUT_SECONDS,
        attempts: int = ATTEMPTS,
        wait_initial: float = 0.5,
    ) -> None:
        self._provider = provider
        self._now = now
        self._slots = asyncio.Semaphore(max_concurrency)
        self._turn = pace(requests_per_second).wait
        self._attempts = attempts
        self._wait_initial = wait_initial
        self._transport: Transport = transport or _Network(max_concurrency, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._transport.close()

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        form: Mapping[str, str] | None = None,
        accept: Sequence[int] = (200,),
    ) -> Answer:
        """Return the answer when its status is in `accept`; see the contract for the errors."""
        content, content_type = _encode(json, form)
        sent = {"user-agent": "wearable-pipeline", "accept": "*/*", "accept-encoding": "gzip"}
        if content_type is not None:
            sent["content-type"] = content_type
        for name, value in (headers or {}).items():
            sent[name.lower()] = value
        try:
            address = yarl.URL(url)
            if params is not None:
                address = address.update_query(params)
            if address.scheme not in ("http", "https") or not address.host:
                raise ValueError
        except (TypeError, ValueError):
            raise PermanentError(f"{self._provider}: the configured address is not a URL") from None
        try:
            return await self._send(method, address, sent, content, accept)
        except TransientError as error:
            if self._attempts <= 1 or not _worth_another_try(error):
                raise
            met: TransientError | None = error
        # Setting up the retries costs more than a request that goes well.
        async for attempt in stamina.retry_context(
            on=_worth_another_try,
            attempts=self._attempts,
            timeout=TOTAL_SECONDS,
            wait_initial=self._wait_initial,
            wait_max=LONGEST_WAIT.total_seconds(),
        ):
            with attempt:
                if met is not None:
                    first, met = met, None
                    raise first
                return await self._send(method, address, sent, content, accept)
        raise AssertionError("retry_context ends by returning or raising")

    async def _send(
        self,
        method: str,
        url: yarl.URL,
        headers: Mapping[str, str],
        content: bytes | None,
        accept: Sequence[int],
    ) -> Answer:
        async with self._slots:
            await self._turn()
            try:
                status, answered, body = await self._transport.send(method, url, headers, content)
                body = _open(body, answered.get("content-encoding", ""))
            except _TooLargeError:
                raise BadPayloadError(
                    f"{self._provider}: the answer is larger than {MAX_BODY_BYTES >> 20} MiB"
                ) from None
            except _CodingError as error:
                raise BadPayloadError(
                    f"{self._provider}: the answer's encoding is {error}"
                ) from None
            except aiohttp.InvalidURL:
                raise PermanentError(
                    f"{self._provider}: the configured address is not a URL"
                ) from None
            except TimeoutError:
                raise TransientError(f"{self._provider}: no answer in time") from None
            except (aiohttp.ClientError, OSError) as error:
                raise TransientError(
                    f"{self._provider}: cannot be reached ({type(error).__name__})"
                ) from None
        if status in accept:
            return Answer(status, answered, body, self._now())
        raise self._error_for(status, answered, body)

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


class _Network:
    """aiohttp as it is: one layer less than a client library over it, a fifth of the CPU."""

    def __init__(self, max_concurrency: int, timeout: float) -> None:
        self._max_concurrency = max_concurrency
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, method: str, url: yarl.URL, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_concurrency),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(
                    total=TOTAL_SECONDS, sock_connect=self._timeout, sock_read=self._timeout
                ),
            )
        async with self._session.request(
            method, url, headers=headers, data=content, allow_redirects=False
        ) as response:
            if (response.content_length or 0) > MAX_BODY_BYTES:
                raise _TooLargeError
            parts: list[bytes] = []
            size = 0
            async for part in response.content.iter_any():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise _TooLargeError
                parts.append(part)
            return response.status, response.headers, b"".join(parts)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class _TooLargeError(Exception):
    """A body beyond the bound."""


class _CodingError(Exception):
    """A body in an encoding that cannot be opened; its text finishes the sentence."""


def _encode(json: object, form: Mapping[str, str] | None) -> tuple[bytes | None, str | None]:
    if json is not None:
        return msgspec.json.encode(json), "application/json"
    if form is not None:
        return (
            yarl.URL.build(query=form).raw_query_string.encode(),
            "application/x-www-form-urlencoded",
        )
    return None, None


def _open(body: bytes, coding: str) -> bytes:
    """The body without its content coding, which must not grow it beyond the bound."""
    name = coding.strip().lower()
    if name in ("", "identity") or not body:
        return body
    if name not in _WINDOW_BITS:
        raise _CodingError("not one we asked for")
    try:
        return _inflate(body, _WINDOW_BITS[name])
    except zlib.error:
        pass
    try:
        # Some servers mean by deflate the stream without its zlib frame.
        if name == "deflate":
            return _inflate(body, -zlib.MAX_WBITS)
    except zlib.error:
        pass
    raise _CodingError("broken")


def _inflate(body: bytes, window_bits: int) -> bytes:
    opener = zlib.decompressobj(window_bits)
    parts: list[bytes] = []
    size = 0
    rest = body
    while rest and not opener.eof:
        part = opener.decompress(rest, _PIECE_BYTES)
        rest = opener.unconsumed_tail
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _TooLargeError
        parts.append(part)
    parts.append(opener.flush())
    if not opener.eof:
        raise zlib.error("cut off")
    return b"".join(parts)


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
