"""Answers of the Google Health API cut into points, and what bodies are that hold none.

A point is an object with one member of the data type's name; roll-ups have the day around it. Points of
sessions have a name, whose last part is their id; the others are known by their moment. Listings of the raw
points say which source each comes from, reconciled ones do not.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import msgspec

from wearable_pipeline.errors import (
    BadPayloadError,
    NotConnectedError,
    PermanentError,
    PipelineError,
    RateLimitedError,
    TransientError,
)
from wearable_pipeline.providers._contract import Page, Record
from wearable_pipeline.providers._local_time import (
    local_date_of,
    read_date,
    read_instant,
    zone_of,
)
from wearable_pipeline.providers._split import content_id, decode, decode_any, item_fields

# Where the time of a point stands: an interval (dated by its start or by its end), a moment, a date, or
# the day around a roll-up.
Timing = Literal["start", "end", "moment", "date", "roll_up"]

_LISTS = ("dataPoints", "rollupDataPoints")
_OFFSET = re.compile(r"(-?\d{1,5})(?:\.\d+)?s|([+-])(\d{2}):?(\d{2})")
_WIDEST = timedelta(hours=18)


class Next(msgspec.Struct):
    """Where an answer says that it goes on."""

    nextPageToken: str | None = None  # noqa: N815 - Google's word


def items_of(body: bytes, key: str, what: str) -> list[msgspec.Raw]:
    """Points of an answer, of a bare list, or the one the body is. An empty object has none."""
    if body.lstrip()[:1] == b"[":
        return decode(body, list[msgspec.Raw], what)
    outer = decode(body, dict[str, msgspec.Raw], what)
    if key in outer:
        return [msgspec.Raw(body.strip())]
    if outer.keys() - {*_LISTS, "nextPageToken"}:
        raise BadPayloadError(f"{what}: the answer has no data points")
    listed = next((outer[name] for name in _LISTS if name in outer), None)
    return decode(listed, list[msgspec.Raw] | None, what) or [] if listed else []  # type: ignore[arg-type]


def splitter(key: str, timing: Timing) -> Callable[[Page], Iterator[Record]]:
    """What makes records of pages with points of the data type `key`."""

    def split(page: Page) -> Iterator[Record]:
        yield from _gone(page)
        for item in items_of(page.body, key, f"google_health: reading {page.resource}"):
            yield _record(page, item, key, timing)

    return split


def _record(page: Page, item: msgspec.Raw, key: str, timing: Timing) -> Record:
    fields = item_fields(item)
    value = _object(fields, key)
    zone = zone_of(page)
    context = {"timezone": zone} if zone else {}
    named = name_of(fields)
    source = _source(fields)
    if timing in ("roll_up", "date"):
        day = civil_date(fields.get("civilStartTime") if timing == "roll_up" else value)
        known = f"{day}{source}" if day else None
        return Record(
            page.resource,
            named or known or content_id(bytes(item)),
            bytes(item),
            day or local_date_of(page.fetched_at, zone),
            context,
        )
    at, offset = moment_of(value, timing)
    record_id = named or (f"{at:%Y%m%dT%H%M%S%f}{source}" if at else content_id(bytes(item)))
    day = date_at(at or page.fetched_at, offset, zone)
    # No time of change is told: what a listing shows again after it was gone would count as older than
    # its deletion.
    return Record(
        page.resource,
        record_id,
        bytes(item),
        day,
        context,
        former_date=_former(page, record_id, day),
        taken_at=None if named else at,
    )


def _former(page: Page, record_id: str, day: date) -> date | None:
    """The date a session was stored under before it was moved; `fetch` remembers it."""
    former = page.context.get("former")
    known = former.get(record_id) if isinstance(former, dict) else None
    found = date.fromisoformat(str(known)) if known else None
    return found if found != day else None


def _gone(page: Page) -> Iterator[Record]:
    """Deletions of what a whole listing no longer has; `fetch` says which that is."""
    gone = page.context.get("gone")
    for record_id, day in gone.items() if isinstance(gone, dict) else ():
        yield Record(page.resource, record_id, b"{}", date.fromisoformat(str(day)), is_deleted=True)


def moment_of(
    value: Mapping[str, object], timing: Timing
) -> tuple[datetime | None, timedelta | None]:
    """The instant a point is dated by, and the offset beside it."""
    if timing == "moment":
        told = _object(value, "sampleTime")
        return read_instant(told.get("physicalTime")), read_offset(told.get("utcOffset"))
    told = _object(value, "interval")
    start = read_instant(told.get("startTime")), read_offset(told.get("startUtcOffset"))
    if timing == "start":
        return start
    end = read_instant(told.get("endTime")), read_offset(told.get("endUtcOffset"))
    return end if end[0] else start


def date_at(at: datetime, offset: timedelta | None, zone: str | None) -> date:
    """Date at `at` by the offset told; by the zone of the person where none was."""
    return local_date_of(at, zone) if offset is None else (at + offset).date()


def read_offset(text: object) -> timedelta | None:
    """An offset as the API writes it (`-18000s`), or as a clock does (`-05:00`)."""
    found = _OFFSET.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    seconds, sign, hours, minutes = found.groups()
    ahead = (
        timedelta(seconds=int(seconds))
        if seconds
        else timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
    )
    return ahead if abs(ahead) <= _WIDEST else None


def civil_date(told: object) -> date | None:
    """The date in `{"date": {"year", "month", "day"}}`."""
    parts = told.get("date") if isinstance(told, dict) else None
    if not isinstance(parts, dict):
        return None
    try:
        found = date(*(int(parts[name]) for name in ("year", "month", "day")))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return found if 2000 <= found.year < 2100 else None


def name_of(fields: Mapping[str, object]) -> str | None:
    """The id at the end of a point's name, which begins differently from call to call."""
    name = fields.get("name") or fields.get("dataPointName")
    return (name.rpartition("/")[2] or None) if isinstance(name, str) else None


def _source(fields: Mapping[str, object]) -> str:
    source = _object(fields, "dataSource")
    device, application = _object(source, "device"), _object(source, "application")
    parts = (source.get("platform"), device.get("displayName"), application.get("packageName"))
    told = [str(part) for part in parts if part]
    return f"/{'/'.join(told)}" if told else ""


def _object(fields: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = fields.get(key)
    return found if isinstance(found, dict) else {}


# --- bodies of unknown origin


def recogniser(key: str, timing: Timing) -> Callable[[object], bool]:
    """What tells bodies with points of the data type `key` from others."""
    is_roll_up = timing == "roll_up"

    def is_one(point: object) -> bool:
        return (
            isinstance(point, dict)
            and isinstance(point.get(key), dict)
            and ("civilStartTime" in point) == is_roll_up
        )

    def recognise(answer: object) -> bool:
        points = answer
        if isinstance(answer, dict):
            points = next((answer[name] for name in _LISTS if name in answer), [answer])
        return isinstance(points, list) and bool(points) and all(map(is_one, points))

    return recognise


_NO_READINGS = {
    "access_token": "a token answer",
    "healthUserId": "an identity",
    "pairedDevices": "a list of devices",
    "subscribers": "a list of subscribers",
    "subscriberConfigs": "a subscriber",
    "endpointUri": "a subscriber",
    "membershipStartDate": "a profile",
    "languageLocale": "settings",
    "timeZone": "settings",
}


class _Error(msgspec.Struct):
    code: int | None = None
    status: str | None = None


def explain(body: bytes) -> None:
    """Raise what `body` means when it is an answer of Google Health without readings."""
    answer = decode_any(body)
    if isinstance(answer, list) and answer and all(isinstance(one, dict) for one in answer):
        # Notifications come in batches, and some front ends put an error into a list.
        answer = next((one for one in answer if {"error", "data"} & one.keys()), None)
    if not isinstance(answer, dict):
        return
    if "error" in answer:
        raise _error_of(answer["error"])
    what = next((title for key, title in _NO_READINGS.items() if key in answer), None)
    told = answer.get("data")
    if answer.get("type") == "verification":
        what = "a question of the webhook service"
    elif isinstance(told, dict) and {"healthUserId", "dataType"} & told.keys():
        what = "a notification"
    elif not answer or answer.keys() == {"nextPageToken"}:
        what = "an empty answer"
    elif any(answer.get(name) == [] for name in _LISTS):
        what = "an empty listing"
    if what:
        raise BadPayloadError(f"google_health: reading the answer: it is {what}: no readings")


def _error_of(told: object) -> PipelineError:
    if isinstance(told, str):
        if told in ("invalid_grant", "invalid_token", "access_denied"):
            return NotConnectedError("google_health: the permission has ended: connect again")
        return PermanentError("google_health: the authorization service refuses")
    try:
        error = msgspec.convert(told, _Error, strict=False)
    except msgspec.ValidationError:
        return PermanentError("google_health: request refused")
    match error.code:
        case 401:
            return NotConnectedError("google_health: the access token was refused: connect again")
        case 429:
            return RateLimitedError("google_health: too many requests", timedelta(minutes=5))
        case 403:
            return PermanentError("google_health: the permission for this was not given (HTTP 403)")
        case int(code) if code >= 500:
            return TransientError(f"google_health: trouble at the service (HTTP {code})")
    status = f" (HTTP {error.code})" if error.code else ""
    return PermanentError(f"google_health: request refused{status}")


# --- notifications


class Notice(msgspec.Struct):
    """What one notification says; dates are null where nobody can read them."""

    account_id: str
    data_type: str
    is_deletion: bool
    record_id: str | None = None
    start: date | None = None
    end: date | None = None


def read_notices(body: bytes) -> Iterator[Notice]:
    """Every notification of a push; one that cannot be read does not take the others with it."""
    told = decode(body, object, "google_health: reading a notification")
    found = [_notice(one) for one in (told if isinstance(told, list) else [told])]
    notices = [one for one in found if one is not None]
    if not notices:
        raise BadPayloadError("google_health: a notification names no account")
    yield from notices


def _notice(told: object) -> Notice | None:
    data = _object(told, "data") if isinstance(told, dict) else {}
    account, record_id = data.get("healthUserId"), data.get("recordId")
    if not isinstance(account, str) or not account:
        return None
    intervals = data.get("intervals")
    days = [
        day
        for one in (intervals if isinstance(intervals, list) else [])
        if isinstance(one, dict)
        for day in _days_of(one)
    ]
    return Notice(
        account,
        str(data.get("dataType")),
        data.get("operation") == "DELETE",
        record_id.rpartition("/")[2] if isinstance(record_id, str) else None,
        min(days, default=None),
        max(days, default=None),
    )


def _days_of(interval: Mapping[str, object]) -> list[date]:
    """Local days an interval touches: civil where it is told, else those of all clocks."""
    civil = _object(interval, "civilDateTimeInterval")
    days = [civil_date(civil.get(name)) for name in ("startDateTime", "endDateTime")]
    known = [day for day in days if day]
    if known:
        return known
    text = _object(interval, "civilIso8601TimeInterval")
    days = [read_date(text.get(name)) for name in ("startTime", "endTime")]
    known = [day for day in days if day]
    if known:
        return known
    physical = _object(interval, "physicalTimeInterval")
    moments = [read_instant(physical.get(name)) for name in ("startTime", "endTime")]
    day = timedelta(days=1)
    return [
        one for at in moments if at for one in ((at - day).date(), at.astimezone(UTC).date() + day)
    ]
