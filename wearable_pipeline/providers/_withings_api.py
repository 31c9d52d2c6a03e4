"""How Withings answers: an envelope with a status of its own, always under HTTP 200."""

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta

import msgspec
import polars as pl

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    PipelineError,
    RateLimitedError,
    TransientError,
)
from wearable_pipeline.model.time import earlier
from wearable_pipeline.providers._contract import Answer, Client, Refusal, TokenRequest
from wearable_pipeline.providers._local_time import find_zone
from wearable_pipeline.providers._paging import follow
from wearable_pipeline.providers._split import decode, decode_any

_DAY = timedelta(days=1)

UNAUTHORISED, TROUBLE, TOO_MANY = 2555, 522, 601
REFUSALS = (
    Refusal(TOO_MANY, "rate_limited", "too many requests"),
    Refusal(TROUBLE, "transient", "trouble at the service"),
    Refusal(UNAUTHORISED, "absent", "the permission for this was not given"),
)

# Withings' table of statuses, as ranges with both ends.
_LOGGED_OUT = ((100, 102), (200, 200), (401, 401))
_FORBIDDEN = ((214, 214), (277, 277), (2553, 2553), (2555, 2555))
_BROKEN = (
    *((215, 215), (219, 219), (222, 222), (224, 224), (226, 226), (231, 233), (237, 237)),
    *((253, 253), (255, 259), (268, 270), (273, 274), (278, 282), (289, 289), (291, 292)),
    *((296, 296), (298, 298), (305, 320), (322, 322), (370, 375), (383, 383), (391, 391)),
    *((402, 402), (516, 522), (524, 531), (533, 533), (602, 602), (700, 700), (1051, 1054)),
    *((2551, 2552), (2556, 2559), (3000, 3016), (3020, 3024), (5000, 5006), (6000, 6000)),
    *((6010, 6011), (9000, 9000), (10000, 10000)),
)


class _Envelope(msgspec.Struct):
    status: int


def _is_in(status: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= status <= last for first, last in ranges)


def read_status(status: int, body: bytes) -> int:
    """The status an answer means: that of the envelope, families of it under one number."""
    if status != 200:
        return status
    try:
        told = msgspec.json.decode(body, type=_Envelope).status
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # What it is instead is said by whoever reads the body.
        return status
    if told == 0:
        return 200
    if _is_in(told, _LOGGED_OUT):
        return 401
    if _is_in(told, _FORBIDDEN):
        return UNAUTHORISED
    return TROUBLE if _is_in(told, _BROKEN) else told


def error_of(status: int) -> PipelineError:
    """What a refusal found in a stored body stands for."""
    match status:
        case 401:
            return NotConnectedError("withings: the access token was refused: connect again")
        case 601:
            return RateLimitedError("withings: too many requests", timedelta(minutes=5))
        case 522:
            return TransientError("withings: trouble at the service")
        case 2555:
            return PermanentError("withings: the permission for this was not given")
    return PermanentError(f"withings: request refused (status {status})")


# --- tokens


def prepare_request(request: TokenRequest) -> TokenRequest:
    """A token request with the action Withings wants named."""
    return TokenRequest(
        request.url, {"action": "requesttoken", **request.form}, dict(request.headers)
    )


def read_token_answer(answer: Mapping[str, object]) -> Mapping[str, object]:
    """The standard's fields out of the envelope; refusals under the standard's names."""
    status, body = answer.get("status"), answer.get("body")
    if status == 0 and isinstance(body, dict):
        return body
    if "error" in answer and status is None:
        return answer
    said = str(answer.get("error", "")).lower()
    if "client" in said:
        return {"error": "invalid_client"}
    # Status 503 says both of a bad token and of a bad code, and a text which it was.
    is_refused = "refresh_token" in said or "invalid code" in said or "invalid grant" in said
    if is_refused or (isinstance(status, int) and _is_in(status, _LOGGED_OUT)):
        return {"error": "invalid_grant"}
    return {"error": f"status_{status}"}


# --- listings

_Listing = Mapping[str, msgspec.Raw]


def listing_of(body: bytes, what: str) -> dict[str, msgspec.Raw]:
    """What is in the envelope, or the body itself where somebody has taken it out."""
    outer = decode(body, dict[str, msgspec.Raw], what)
    inner = outer.get("body")
    if inner is None:
        return outer
    if bytes(inner).strip() in (b"[]", b"null"):
        return {}
    return decode(inner, dict[str, msgspec.Raw], what)


def items_of(body: bytes, key: str, what: str) -> list[msgspec.Raw]:
    """The list under `key`, or the bare list the body is."""
    if body.lstrip()[:1] == b"[":
        return decode(body, list[msgspec.Raw], what)
    found = listing_of(body, what).get(key)
    if found is None:
        raise BadPayloadError(f"{what}: the answer has no {key}")
    return decode(found, list[msgspec.Raw], what)


class _Cursor(msgspec.Struct):
    more: bool | int = False
    offset: int | None = None


class _Paged(msgspec.Struct):
    body: _Cursor


async def pages(
    client: Client, path: str, form: Mapping[str, str], what: str
) -> AsyncIterator[Answer]:
    """Every page of a listing; none where the permission was not given."""

    async def ask(offset: int | None) -> Answer:
        more = {} if offset is None else {"offset": str(offset)}
        return await client.request("POST", path, form={**form, **more})

    def find_next(answer: Answer) -> int | None:
        if answer.status != 200:
            return None
        cursor = decode(answer.body, _Paged, what).body
        if not cursor.more:
            return None
        if cursor.offset is None:
            raise BadPayloadError(f"{what}: the answer says there is more, but not where")
        return cursor.offset

    async for answer in follow(ask, find_next, what):
        yield answer


# --- days


def slices_of_day(day: date, zone: str | None, now: datetime) -> Iterator[tuple[int, int]]:
    """Epoch seconds of a local day in pieces of at most 24 hours; of all its clocks without a zone."""
    if zone is not None and find_zone(zone) is not None:
        begin, end = _midnight(day, zone), _midnight(day + _DAY, zone)
    else:
        utc = datetime(day.year, day.month, day.day, tzinfo=UTC)
        begin, end = utc - timedelta(hours=14), utc + timedelta(hours=36)
    end = min(end, now)
    while begin < end:
        until = min(begin + _DAY, end)
        yield int(begin.timestamp()), int(until.timestamp())
        begin = until


def _midnight(day: date, zone: str) -> datetime:
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 - a wall clock
    at = pl.select(earlier(pl.lit(midnight, pl.Datetime("us")), zone)).item()
    # Where midnight is skipped the day begins with the hour after it.
    found = at or pl.select(
        earlier(pl.lit(midnight - timedelta(hours=3), pl.Datetime("us")), zone)
    ).item() + timedelta(hours=3)
    return datetime.fromtimestamp(found.timestamp(), UTC)


# --- bodies of unknown origin

_NO_READINGS = {
    "devices": "a list of devices",
    "goals": "the person's goals",
    "profiles": "a list of subscriptions",
    "access_token": "a token answer",
    "nonce": "a nonce",
}


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer of Withings without records."""
    answer = decode_any(body)
    if not isinstance(answer, dict):
        return
    status = answer.get("status")
    if isinstance(status, int) and status != 0:
        raise error_of(read_status(200, body))
    inner = answer.get("body", answer)
    found = inner if isinstance(inner, dict) else {}
    for key, title in _NO_READINGS.items():
        if key in found:
            raise BadPayloadError(f"withings: reading the answer: it is {title}: no readings")
    if status == 0 and not inner:
        raise BadPayloadError("withings: reading the answer: it is empty, as after a command")
